"""Lays a split's embeddings out in the plane."""

import numpy as np

from mrd_jax.draw.markup import Markup, tag
from mrd_jax.encoder.embed_split import read_embeddings
from mrd_jax.errors import BadInput
from mrd_jax.report.retrieval import spaced
from mrd_jax.report.run_folder import Folders, RunFolder

MOST_SHAPES = 1500  # seconds of t-SNE
COLORED = 7  # classes with a colour of their own; the eighth is grey
WIDTH, HEIGHT, MARGIN = 640, 480, 12


def section(folders: Folders) -> list[Markup]:
  """Makes a block of the page for every run, of its first zero-shot split."""
  return folders.each_split("Map", map_block, 1)


def map_block(name: str, run: RunFolder, split: str) -> Markup:
  """Makes a map of a split's embeddings, t-SNE in two dimensions.

  Raises:
    BadInput: if the embeddings are not there, too few, or all the same.
  """
  found = read_embeddings(run.workdir / "embeddings" / f"{split}.npz")
  label_N, names = found.label, run.class_names(split)
  labelled = np.flatnonzero(label_N >= 0)
  chosen = labelled[spaced(len(labelled), MOST_SHAPES)]
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
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
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
  size = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
  span = np.where(high > low, high - low, 1)
  return (placed_N2 - low) / span * size + MARGIN
