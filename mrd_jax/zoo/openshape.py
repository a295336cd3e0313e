"""OpenShape's PointBERT (Minghua Liu et al., NeurIPS 2023), which we train.

The module is `models/pointbert.py`; here are OpenShape's names of its tensors,
`Projected(PointPatchTransformer, Linear)`, and what its published files do not
say.  (PyTorch accumulates the unbiased batch variance in `running_var` and Flax
the biased one; a stored value is copied as it is.)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.config.fields import field
from mrd_jax.config.pretraining import SIZES, PointBERTSize, UpAxis
from mrd_jax.config.shared import ComputeConfig
from mrd_jax.models.pointbert import HEAD_DIM, PointBERT
from mrd_jax.zoo import prompts, tensors
from mrd_jax.zoo.system import Hub, Preparation, Release, Texts
from mrd_jax.zoo.tensors import (
  Row,
  State,
  batch_norm,
  count,
  linear,
  norm,
  shapes,
)

NAME = "OpenShape's PointBERT"
UNSAID = ("groups", "radius", "group_size")
_LAYERS = "ppat.transformer.layers"
_COUNTERS = tuple(f"ppat.sa.mlp_bns.{i}.num_batches_tracked" for i in range(3))


@dataclasses.dataclass(frozen=True)
class Size(PointBERTSize):
  """The architecture, with its projection."""

  embed_dim: int | None = field(
    None, "D of the projection, None without.", between=(1, 2**24 - 1)
  )

  channels = 6  # no field: it has no other


class Grouping(NamedTuple):
  """How an encoder groups points, see `PointBERTSize`."""

  groups: int
  radius: float
  group_size: int


class Published(NamedTuple):
  """What OpenShape's model cards and demo say of a model.

  Attributes:
    name: Its repository or repositories.
    grouping: How it groups points.
    up_axis: The axis that is up in its clouds.
    embedding_space: Its teacher.
  """

  name: str
  grouping: Grouping
  up_axis: UpAxis
  embedding_space: str


# By width, depth, heads, mlp_dim, sa_dim and embed_dim (openshape-demo-support,
# __init__.py).
PUBLISHED = {
  (512, 12, 8, 1536, 256, 1280): Published(
    "OpenShape/openshape-pointbert-vitg14-rgb or -no-lvis",
    Grouping(384, 0.2, 64),
    "z",
    prompts.BIG_G_SPACE,
  ),
  (256, 6, 4, 1024, 96, 1280): Published(
    "OpenShape/openshape-pointbert-shapenet",
    Grouping(64, 0.4, 256),
    "z",
    prompts.BIG_G_SPACE,
  ),
  (512, 12, 8, 1024, 128, 768): Published(
    "OpenShape/openshape-pointbert-vitl14-rgb",
    Grouping(64, 0.4, 256),
    "y",
    "OpenAI CLIP ViT-L/14",
  ),
  (512, 12, 8, 1024, 128, None): Published(
    "OpenShape/openshape-pointbert-vitb32-rgb",
    Grouping(64, 0.4, 256),
    "y",
    "OpenAI CLIP ViT-B/32",
  ),
}

# Other scales of OpenShape's code (src/models/ppat.py: 2, 3, 5, 6), then our
# sizes, two of which are its scales 1 and 4; whatever the projection.
_SCALES = {
  (512, 6, 8, 1024, 128): Grouping(64, 0.4, 256),
  (512, 12, 8, 1024, 128): Grouping(128, 0.35, 128),
  (768, 12, 12, 2304, 256): Grouping(512, 0.2, 64),
  (768, 24, 12, 3072, 256): Grouping(512, 0.2, 64),
} | {
  (s.width, s.depth, s.heads, s.mlp_dim, s.sa_dim): Grouping(
    s.groups, s.radius, s.group_size
  )
  for s in SIZES.values()
}


def _release(
  repository: str,
  data: str,
  size: PointBERTSize = SIZES["m"],
  parameters: int = 32_326_080,
  license: str | None = None,
) -> Release:
  return Release(
    Size(**vars(size), embed_dim=1280),
    parameters,
    Hub(f"OpenShape/{repository}", "model.pt"),
    license,
    Texts((), prompts.BIG_G),
    ("OpenShape+PointBERT", data),
    # With replacement: there are 2,048.
    on={"scanobjectnn": {"drawn": 10_000}},
  )


RELEASES = {
  "openshape-pointbert": _release(
    "openshape-pointbert-vitg14-rgb", "ensembled"
  ),
  "openshape-pointbert-no-lvis": _release(
    "openshape-pointbert-no-lvis", "no LVIS", license="mit"
  ),
  "openshape-pointbert-shapenet": _release(
    "openshape-pointbert-shapenet", "ShapeNet", SIZES["t"], 5_100_768, "mit"
  ),
}


def published(size: Size) -> Published | None:
  """Finds what is published of an encoder of these shapes."""
  return PUBLISHED.get((*_shapes(size), size.embed_dim))


def known_grouping(size: Size) -> Grouping | None:
  """Finds how an encoder of these shapes groups points, if it is known."""
  found = published(size)
  return found.grouping if found else _SCALES.get(_shapes(size))


def describe(size: Size) -> str:
  """Says what the tensors of an encoder tell of it."""
  unsaid = Grouping._fields
  return str({k: v for k, v in vars(size).items() if k not in unsaid})


def _shapes(size: Size) -> tuple[int, int, int, int, int]:
  return size.width, size.depth, size.heads, size.mlp_dim, size.sa_dim


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the size of a state dict; None if it is another system's.

  The grouping is that of the published encoder of these shapes, if there is
  one (`known_grouping`).
  """
  found = shapes(
    state,
    {
      "ppat.cls_token": 1,
      f"{_LAYERS}.0.0.fn.to_qkv.weight": 2,
      f"{_LAYERS}.0.1.fn.net.0.weight": 2,
      "ppat.sa.mlp_convs.2.weight": 4,
    },
  )
  if found is None:
    return None
  (width,), (inner, _), (mlp_dim, _), (sa_dim, *_) = found
  projection = shapes(state, {"proj.weight": 2})
  size = Size(
    width=width,
    depth=count(state, _LAYERS),
    heads=-(-inner // (3 * HEAD_DIM)),
    mlp_dim=mlp_dim,
    sa_dim=sa_dim,
    embed_dim=projection[0][0] if projection else None,
  )
  grouping = known_grouping(size)
  return dataclasses.replace(size, **grouping._asdict()) if grouping else size


def table(size: Size) -> list[Row]:
  """Lists the names of all tensors."""
  return _table(size.depth, projection=size.embed_dim is not None)


def _table(depth: int, *, projection: bool) -> list[Row]:
  rows = [Row("ppat.cls_token", "params/cls_token")]
  for i in range(3):
    rows += linear(f"ppat.sa.mlp_convs.{i}", f"point_net/linear_{i}", rank=4)
    rows += batch_norm(f"ppat.sa.mlp_bns.{i}", f"point_net/norm_{i}")
  rows += linear("ppat.lift.0", "lift", rank=3)
  rows += norm("ppat.lift.2", "lift_norm")
  for i in range(depth):
    layer, block = f"{_LAYERS}.{i}", f"block_{i}"
    rows += norm(f"{layer}.0.norm", f"{block}/attention_norm")
    rows += linear(f"{layer}.0.fn.to_qkv", f"{block}/qkv", bias=False)
    rows += linear(f"{layer}.0.fn.to_out.0", f"{block}/attention_out")
    rows += norm(f"{layer}.1.norm", f"{block}/mlp_norm")
    rows += linear(f"{layer}.1.fn.net.0", f"{block}/mlp_in")
    rows += linear(f"{layer}.1.fn.net.3", f"{block}/mlp_out")
  return rows + (linear("proj", "proj") if projection else [])


def is_unused(key: str) -> bool:
  """Says whether a file may hold a tensor that does not embed clouds."""
  return key == "logit_scale"


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> PointBERT:
  """Makes the encoder of a size, for the devices at hand."""
  # A CPU wants the few clouds that its cache holds (`models/point_ops.py`).
  on_cpu, wide = jax.default_backend() == "cpu", ComputeConfig()
  return PointBERT(
    size.size,
    size.embed_dim,
    dtype=dtype,
    fps_chunk=1 if on_cpu else wide.fps_chunk,
    query_chunk=8 if on_cpu else wide.query_chunk,
  )


def preparation(size: Size) -> Preparation:
  """Says how the published encoders take a cloud, or ours."""
  found = published(size)
  return Preparation(10_000, found.up_axis if found else "z", order="shuffled")


def teacher(size: Size) -> str:
  """Names the embedding space, by its teacher."""
  found = published(size)
  return found.embedding_space if found else "unknown"


def to_tree(state: Mapping[str, np.ndarray]) -> Any:
  """Puts tensors by OpenShape's keys (weights, or their gradients) in our tree.

  What has no counterpart in ours (`num_batches_tracked`) is left out; what is
  absent stays absent.
  """
  rows = _table(count(state, _LAYERS), projection="proj.weight" in state)
  return tensors.to_tree(rows, state)


def to_state_dict(variables: Any, *, num_batches_tracked: int) -> State:
  """Takes variables as a state dict that PyTorch loads with `strict=True`.

  Args:
    variables: {"params", "batch_stats"} of `PointBERT`.
    num_batches_tracked: What BatchNorm's counters say: the training step.
  """
  params = variables["params"]
  depth = sum(name.startswith("block_") for name in params)
  state = tensors.to_state(
    _table(depth, projection="proj" in params), variables
  )
  return state | {
    key: np.array(num_batches_tracked, np.int64) for key in _COUNTERS
  }


def num_batches_tracked(state: Mapping[str, np.ndarray]) -> int:
  """Reads how many steps BatchNorm counted; 0 where it is not said."""
  return int(np.asarray(state.get(_COUNTERS[0], 0)))
