"""Writes the page of all fields: python -m mrd_jax.config."""

from pathlib import Path

from mrd_jax.config import finetuning, pretraining
from mrd_jax.config.fields import by_section

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def make_page() -> str:
  """Makes docs/configuration.md of the declarations."""
  lines = [
    "# Configuration",
    "",
    "Every field of the configs, with its default; `python -m mrd_jax.config`",
    "makes this page of `mrd_jax/config/`.  `--config.FIELD=VALUE` changes one on",
    "the command line; [training.md](training.md#configs) says more.  The last",
    "column says which may change when a run goes on.",
  ]
  kinds = {"Pre-training": pretraining, "Fine-tuning": finetuning}
  for title, module in kinds.items():
    lines += ["", f"## {title}"]
    for name, doc, fields in by_section(module.Config):
      lines += ["", f"**{name}:** {doc}" if name else doc, ""]
      lines += ["| field | values | default | | may change |"]
      lines += ["|---|---|---|---|---|"]
      lines += [
        f"| `{item.name}` | {item.values} | `{item.default!r}` | {item.why} "
        f"| {'yes' if item.may_change else ''} |"
        for item in fields
      ]
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  PAGE.write_text(make_page())
