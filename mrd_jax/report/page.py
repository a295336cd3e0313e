"""Writes the report of one run, or of several side by side, as an HTML page."""

import functools
from collections.abc import Sequence
from pathlib import Path

from mrd_jax.draw.markup import Markup, tag
from mrd_jax.errors import BadInput
from mrd_jax.io.files import replacing
from mrd_jax.report import (
  accuracy,
  cards,
  configuration,
  confusion,
  embedding_map,
  gallery,
  losses,
  results,
  weights,
)
from mrd_jax.report.document import Section, document
from mrd_jax.report.run_folder import EvaluationFolder, Folders, RunFolder


def _left_out(folders: Folders) -> list[Markup]:
  items = [tag("li", sentence) for sentence in folders.missing]
  return [tag("ul", *items, class_="missing")] if items else []


# In the order of the page; a new one is a file and an entry here.  The last
# tells what all others have left out.
SECTIONS = (
  Section("Runs", "Runs", cards.section),
  Section(
    "Results",
    "Results",
    results.section,
    "The best value of a column is bold where there are several; of "
    "relation gaps (mean absolute errors) it is the smallest.",
  ),
  Section("Losses", "The loss and its parts", losses.section, "By step."),
  Section(
    "Weights",
    "Dynamic weights",
    weights.section,
    "Which teacher relation each pair follows (Eq. 9, Fig. 5 of the paper);"
    " the two weights of a pair sum to 1, dotted: 1/2.",
  ),
  Section(
    "Zero-shot",
    "Zero-shot accuracy",
    functools.partial(accuracy.section, finetuned=False),
    "Of held-out shapes, by step; dotted: chance.",
  ),
  Section(
    "Fine-tuning",
    "Accuracy after fine-tuning",
    functools.partial(accuracy.section, finetuned=True),
    "Of the test split, by step; dotted: chance.",
  ),
  Section(
    "Confusion",
    "Confusion",
    confusion.section,
    "Which class is taken for which, from the stored embeddings.",
  ),
  Section(
    "Map",
    "Embedding map",
    embedding_map.section,
    "Shapes in the joint space, laid out by t-SNE: neighbours are alike, "
    "distances between groups mean little. The most frequent classes are "
    "coloured; point at a dot to read its class.",
  ),
  Section(
    "Retrieval",
    "Retrieval",
    gallery.section,
    "What each query finds, best first, with cosine similarities. Queries "
    "are spread over the classes, not picked by result. Open a shape to "
    "turn it.",
  ),
  Section("Configuration", "Configuration", configuration.section),
  Section("Left out", "What is not on this page", _left_out),
)


def write_page(
  folders: Sequence[RunFolder | EvaluationFolder], path: Path
) -> list[str]:
  """Writes the page of one folder, or of several side by side.

  Args:
    folders: Runs, finished or not, and evaluations.
    path: The .html file.

  Returns:
    A sentence for everything that is missing; the page has them too.

  Raises:
    BadInput: if the file cannot be written.
  """
  labels = short_names([folder.workdir for folder in folders])
  pairs = list(zip(labels, folders, strict=True))
  given = Folders(
    runs={name: f for name, f in pairs if isinstance(f, RunFolder)},
    evaluations=[f for f in folders if isinstance(f, EvaluationFolder)],
    missing=[],
  )
  filled = [(one, one.blocks(given)) for one in SECTIONS]
  title = f"{labels[0]} · report"
  if len(labels) > 1:
    title = f"{len(labels)} side by side · report"
  try:
    with replacing(path) as temporary:
      # A lone surrogate, which JSON allows and UTF-8 does not, becomes "?".
      text = document(title, filled)
      temporary.write_bytes(text.encode("utf-8", "replace"))
  except OSError as error:
    raise BadInput(
      f"{path} cannot be written ({error.strerror}); name another file with "
      "--output"
    ) from None
  return given.missing


def short_names(folders: Sequence[Path]) -> list[str]:
  """Returns the folders' names, with as many parents as tell them apart."""
  parts = [folder.resolve().parts for folder in folders]
  for depth in range(1, max(map(len, parts)) + 1):
    names = ["/".join(p[-depth:]) for p in parts]
    if len(set(names)) == len(names):
      return names
  raise BadInput("the same folder is named twice; name every folder once")
