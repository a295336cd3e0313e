"""Finds the shapes of the suites of `python -m mrd_jax.evaluate`.

A suite looks for its splits under the names that `mrd_jax.prepare` gives them,
in the datasets that it is given; the user may name others.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mrd_jax.data import dataset
from mrd_jax.errors import BadInput

# For every suite, where its shapes are: the first entry that a dataset has
# all splits of.  Several splits are one after the other; a probe fits on the
# first and is tested on the second.
SPLITS: dict[str, tuple[tuple[str, ...], ...]] = {
  "modelnet40": (
    ("modelnet40",),
    ("modelnet40_openshape_test",),
    ("modelnet40_hdf5_test",),
    ("modelnet40_txt_test",),
  ),
  "scanobjectnn": (
    ("scanobjectnn",),
    ("scanobjectnn_openshape",),
    # The 2,890 shapes of the published figures are both parts of OBJ_ONLY.
    ("scanobjectnn_obj_only_train", "scanobjectnn_obj_only_test"),
  ),
  "objaverse_lvis": (("lvis",),),
  "zero_shot": (("val",),),
  "retrieval": (("lvis",), ("val",)),
  "relation_gap": (("train_shapenet_only",), ("val",)),
  "linear_probe": (
    ("modelnet40_hdf5_train", "modelnet40_hdf5_test"),
    ("modelnet40_txt_train", "modelnet40_txt_test"),
    ("scanobjectnn_pb_t50_rs_train", "scanobjectnn_pb_t50_rs_test"),
    ("scanobjectnn_obj_only_train", "scanobjectnn_obj_only_test"),
  ),
  "few_shot": (
    ("modelnet40",),
    ("modelnet40_openshape_test",),
    ("modelnet40_hdf5_test",),
    ("scanobjectnn",),
    ("lvis",),
  ),
}
ZERO_SHOT = ("modelnet40", "scanobjectnn", "objaverse_lvis", "zero_shot")


class Found(NamedTuple):
  """Where a suite's shapes are: a dataset and splits of it."""

  data: Path
  splits: tuple[str, ...]


def find(
  suite: str, data: Sequence[Path], named: Mapping[str, tuple[str, ...]]
) -> Found:
  """Finds a suite's splits.

  Args:
    suite: A key of `SPLITS`.
    data: Prepared datasets; the first that has the splits is taken.
    named: Splits that the user named, by suite.

  Raises:
    BadInput: naming the suite, the datasets and the splits they have.
  """
  candidates = (named[suite],) if suite in named else SPLITS[suite]
  has = {path: dataset.split_names(path) for path in data}
  for splits in candidates:
    for path, names in has.items():
      if set(splits) <= set(names):
        return Found(path, splits)
  wanted = " or ".join(",".join(splits) for splits in candidates)
  there = "; ".join(
    f"{path} has {', '.join(sorted(names))}" for path, names in has.items()
  )
  raise BadInput(
    f"suite {suite}: no dataset of --data has the split {wanted} ({there}); "
    f"name one with --split {suite}=NAME"
  )


def find_some(
  suites: Iterable[str],
  data: Sequence[Path],
  named: Mapping[str, tuple[str, ...]],
) -> dict[str, Found]:
  """Finds those suites of several that datasets have the splits of.

  Raises:
    BadInput: as `find`, if there is none of them.
  """
  found, problem = {}, None
  for suite in suites:
    try:
      found[suite] = find(suite, data, named)
    except BadInput as error:
      problem = problem or error
  if problem and not found:
    raise problem
  return found
