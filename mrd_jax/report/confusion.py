"""Shows which class is taken for which."""

import numpy as np

from mrd_jax.data import dataset
from mrd_jax.draw.markup import Markup, table, tag
from mrd_jax.encoder.embed_split import read_embeddings, unit
from mrd_jax.errors import BadInput
from mrd_jax.metrics.zero_shot import confusion
from mrd_jax.report.run_folder import Folders, RunFolder

MOST_CLASSES = 16  # in a matrix that one can read
MOST_MISTAKES = 10


def section(folders: Folders) -> list[Markup]:
  """Makes a block of the page for every run and zero-shot split."""
  return folders.each_split("Confusion", confusion_block, 99)


def confusion_block(name: str, run: RunFolder, split: str) -> Markup:
  """Makes a run's confusion matrix of a split and its most frequent mistakes.

  Raises:
    BadInput: if the embeddings or the dataset are not there.
  """
  found = read_embeddings(run.workdir / "embeddings" / f"{split}.npz")
  class_CD = unit(dataset.class_features(run.data_dir, split))
  if class_CD.shape[1] != found.point.shape[1]:
    raise BadInput(
      f"{run.data_dir} has class features of another width than the run's "
      "embeddings; name the dataset of the run with --data"
    )
  names = run.class_names(split)
  if len(names) != len(class_CD):
    raise BadInput(
      f"{run.data_dir} names {len(names)} classes and has features of "
      f"{len(class_CD)}; prepare it again"
    )
  matrix_CC, _ = confusion(found.point, found.label, class_CD)
  wrong_CC = matrix_CC.copy()
  np.fill_diagonal(wrong_CC, 0)
  total, right = int(matrix_CC.sum()), int(np.trace(matrix_CC))
  present = np.flatnonzero(matrix_CC.sum(axis=1) + matrix_CC.sum(axis=0))
  shown = present
  summary = f"{right:,} of {total:,} shapes right ({right / total:.1%})."
  if len(present) > MOST_CLASSES:
    # Stable: of equally confused classes the first in the order of labels.
    mistakes = wrong_CC.sum(axis=1) + wrong_CC.sum(axis=0)
    order = np.argsort(-mistakes[present], kind="stable")
    shown = np.sort(present[order[:MOST_CLASSES]])
    summary += (
      f" Shown are the {MOST_CLASSES} of {len(present)} classes that take part"
      " in most mistakes; the last column counts predictions of all others."
    )
  title = f"{name}, split “{split}”"
  return tag(
    "div",
    tag("h3", title),
    tag("p", summary, " Rows: true class, columns: predicted.", class_="note"),
    _matrix(title, matrix_CC, shown, names),
    _mistakes(title, matrix_CC, wrong_CC, names),
    class_="confusion",
  )


def _matrix(
  title: str, matrix_CC: np.ndarray, shown: np.ndarray, names: list[str]
) -> Markup:
  totals_C = matrix_CC.sum(axis=1)
  others = len(shown) < np.count_nonzero(totals_C + matrix_CC.sum(axis=0))
  head: list[str] = [tag("td", "true ↓ predicted →", class_="corner")]
  for column in shown:
    label = tag("span", names[column])
    head.append(tag("th", label, scope="col", class_="turned"))
  if others:
    label = tag("span", "other classes")
    head.append(tag("th", label, scope="col", class_="turned others"))
  body = []
  for row in shown:
    cells: list[str] = [names[row]]
    for column in shown:
      count, total = int(matrix_CC[row, column]), int(totals_C[row])
      share = count / total if total else 0
      kinds = ["right"] if column == row else []
      kinds += ["strong"] if share > 0.5 else []
      cells.append(
        tag(
          "td",
          str(count or ""),
          class_=" ".join(kinds) or None,
          style=f"--share:{share:.3f}" if count else None,
        )
      )
    if others:
      rest = int(totals_C[row] - matrix_CC[row, shown].sum())
      cells.append(tag("td", str(rest or ""), class_="others"))
    body.append(cells)
  return table(f"Confusion matrix of {title}", head, body, class_="matrix")


def _mistakes(
  title: str, matrix_CC: np.ndarray, wrong_CC: np.ndarray, names: list[str]
) -> Markup:
  order = np.argsort(-wrong_CC, axis=None, kind="stable")[:MOST_MISTAKES]
  rows = []
  for index in order.tolist():
    true, predicted = divmod(index, len(wrong_CC))
    count, total = int(wrong_CC[true, predicted]), int(matrix_CC[true].sum())
    if count:
      share = f"{100 * count / total:.1f}"
      rows.append([names[true], names[predicted], f"{count:,}", share])
  if not rows:
    return tag("p", "There is no mistake.")
  head = ("True class", "Taken for", "Shapes", "Of the class (%)")
  made = table(f"Mistakes of {title}", head, rows, class_="mistakes")
  return tag("details", tag("summary", "Most frequent mistakes"), made)
