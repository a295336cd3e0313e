"""Shows what each run is."""

from mrd_jax.draw.markup import Markup, join, tag
from mrd_jax.report.run_folder import Folders


def section(folders: Folders) -> list[Markup]:
  """Makes a card for each run."""
  cards = []
  for i, (name, run) in enumerate(folders.runs.items()):
    known = run.meta
    shapes = run.data.get("train" if run.finetuned else "records")
    fields = {"Data": known.name if known else run.data.get("name")}
    if run.finetuned:
      # An empty name is a start from scratch, of which `source` says so.
      start = run.start
      fields["Started from"] = start.get("checkpoint") or start.get("source")
    else:
      fields["Teacher"] = known.teacher if known else run.data.get("teacher")
    fields |= {
      "Trained on": shapes and f"{shapes:,} shapes",
      "Trained to": run.progress(),
      "Results of": run.origin(),
      "Folder": str(run.workdir),
    }
    items = [
      join([tag("dt", key), tag("dd", str(value or "unknown"))])
      for key, value in fields.items()
    ]
    cards.append(
      tag(
        "article",
        tag("h3", tag("i"), name, class_=f"swatch c{i % 8}"),
        tag("dl", *items),
        class_="card",
      )
    )
  return [tag("div", *cards, class_="cards")] if cards else []
