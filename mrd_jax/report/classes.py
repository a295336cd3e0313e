"""Classes of a run's splits: what is taken for what, and where shapes lie."""

import numpy as np

from mrd_jax.data import dataset
from mrd_jax.encoder.embed_split import read_embeddings, unit
from mrd_jax.errors import BadInput
from mrd_jax.metrics.zero_shot import confusion
from mrd_jax.report.markup import Markup, tag
from mrd_jax.report.run_folder import RunFolder
from mrd_jax.report.tables import scroll

MOST_CLASSES = 16  # in a matrix that one can read
MOST_MISTAKES = 10
MOST_SHAPES = 1500  # on a map: seconds of t-SNE
COLORED = 7  # classes with a colour of their own; the eighth is grey
MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN = 640, 480, 12


def confusion_block(name: str, run: RunFolder, split: str) -> Markup:
  """A run's confusion matrix of a split and its most frequent mistakes.

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
  names = class_names(run, split)
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
    scroll(f"Confusion matrix of {title}", _matrix(matrix_CC, shown, names)),
    _mistakes(title, matrix_CC, wrong_CC, names),
    class_="confusion",
  )


def class_names(run: RunFolder, split: str) -> list[str]:
  """Names in label order; empty if the dataset has none for the split."""
  return list(run.meta.class_names.get(split, ())) if run.meta else []


def _matrix(
  matrix_CC: np.ndarray, shown: np.ndarray, names: list[str]
) -> Markup:
  totals_C = matrix_CC.sum(axis=1)
  others = len(shown) < np.count_nonzero(totals_C + matrix_CC.sum(axis=0))
  head = [
    tag("th", tag("span", names[column]), scope="col", class_="turned")
    for column in shown
  ]
  if others:
    label = tag("span", "other classes")
    head.append(tag("th", label, scope="col", class_="turned others"))
  body = []
  for row in shown:
    counts = matrix_CC[row, shown]
    cells = [
      _cell(int(count), int(totals_C[row]), right=bool(column == row))
      for column, count in zip(shown, counts, strict=True)
    ]
    if others:
      rest = int(totals_C[row] - counts.sum())
      cells.append(tag("td", str(rest or ""), class_="others"))
    body.append(tag("tr", tag("th", names[row], scope="row"), *cells))
  corner = tag("td", "true ↓ predicted →", class_="corner")
  return tag(
    "table",
    tag("thead", tag("tr", corner, *head)),
    tag("tbody", *body),
    class_="matrix",
  )


def _cell(count: int, total: int, *, right: bool) -> Markup:
  share = count / total if total else 0
  kinds = ["right" if right else "", "strong" if share > 0.5 else ""]
  return tag(
    "td",
    str(count or ""),
    class_=" ".join(filter(None, kinds)) or None,
    style=f"--share:{share:.3f}" if count else None,
  )


def _mistakes(
  title: str, matrix_CC: np.ndarray, wrong_CC: np.ndarray, names: list[str]
) -> Markup:
  order = np.argsort(-wrong_CC, axis=None, kind="stable")[:MOST_MISTAKES]
  rows = []
  for index in order.tolist():
    true, predicted = divmod(index, len(wrong_CC))
    count, total = int(wrong_CC[true, predicted]), int(matrix_CC[true].sum())
    if count:
      cells = [names[predicted], f"{count:,}", f"{100 * count / total:.1f}"]
      label = tag("th", names[true], scope="row")
      rows.append(tag("tr", label, *(tag("td", cell) for cell in cells)))
  if not rows:
    return tag("p", "There is no mistake.")
  head = ("True class", "Taken for", "Shapes", "Of the class (%)")
  table = tag(
    "table",
    tag("thead", tag("tr", *(tag("th", text, scope="col") for text in head))),
    tag("tbody", *rows),
    class_="mistakes",
  )
  summary = tag("summary", "Most frequent mistakes")
  return tag("details", summary, scroll(f"Mistakes of {title}", table))


def map_block(name: str, run: RunFolder, split: str) -> Markup:
  """A map of a split's embeddings, t-SNE in two dimensions.

  Raises:
    BadInput: if the embeddings are not there, too few, or all the same.
  """
  found = read_embeddings(run.workdir / "embeddings" / f"{split}.npz")
  label_N, names = found.label, class_names(run, split)
  chosen = np.flatnonzero(label_N >= 0)
  if len(chosen) > MOST_SHAPES:
    spaced = np.linspace(0, len(chosen) - 1, MOST_SHAPES).round().astype(int)
    chosen = chosen[spaced]
  if len(chosen) < 4:
    raise BadInput(
      f"split {split!r} has {len(chosen)} labelled shapes, too few for a map"
    )
  if (found.point[chosen] == found.point[chosen[0]]).all():
    raise BadInput(
      f"all labelled shapes of split {split!r} have the same embedding: the "
      "encoder has collapsed, and there is nothing to lay out"
    )
  xy_M2 = flat_map(found.point[chosen])
  label_M = label_N[chosen]
  labels, counts = np.unique(label_M, return_counts=True)
  frequent = labels[np.argsort(-counts, kind="stable")][:COLORED].tolist()
  groups, options, legend = [], [], []
  by_color = [label for label in labels.tolist() if label not in frequent]
  for label in by_color + frequent[::-1]:  # colours above the grey
    text = names[label] if label < len(names) else f"class {label}"
    color = f"c{frequent.index(label)}" if label in frequent else "rest"
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in xy_M2[label_M == label])
    groups.append(tag("path", d=path, class_=f"dots {color}", data_name=text))
    options.append(text)
  for i, label in enumerate(frequent):
    text = names[label] if label < len(names) else f"class {label}"
    legend.append(tag("li", tag("i"), tag("span", text), class_=f"c{i}"))
  if by_color:
    text = f"{len(by_color)} other classes"
    legend.append(tag("li", tag("i"), tag("span", text), class_="rest"))
  title = f"{name}, split “{split}”"
  picker = tag(
    "label",
    "Highlight ",
    tag(
      "select",
      tag("option", "no class", value=""),
      *(tag("option", text, value=text) for text in sorted(set(options))),
    ),
    class_="picker",
  )
  return tag(
    "figure",
    tag("h3", title),
    picker,
    tag(
      "div",
      tag(
        "svg",
        *groups,
        viewBox=f"0 0 {MAP_WIDTH} {MAP_HEIGHT}",
        role="img",
        aria_label=f"Map of {len(chosen):,} shapes of {title}, coloured by "
        "class; choose a class above to see where it lies",
      ),
      tag("output", class_="tip", hidden=True),
      class_="plane",
    ),
    tag("ul", *legend, class_="legend"),
    class_="map",
  )


def flat_map(point_ND: np.ndarray) -> np.ndarray:
  """Places embeddings in the plane of a map, the same ones always alike.

  Returns:
    (N, 2) coordinates in the drawing.
  """
  from sklearn.manifold import TSNE  # seconds to import

  # t-SNE starts from the first two principal components: nothing is random
  # but the order of its approximations, which the seed fixes.
  placed_N2 = TSNE(
    init="pca",
    perplexity=min(30.0, (len(point_ND) - 1) / 3),
    random_state=0,
    n_jobs=1,
  ).fit_transform(point_ND)
  low, high = placed_N2.min(axis=0), placed_N2.max(axis=0)
  size = np.array([MAP_WIDTH, MAP_HEIGHT]) - 2 * MAP_MARGIN
  span = np.where(high > low, high - low, 1)
  return (placed_N2 - low) / span * size + MAP_MARGIN
