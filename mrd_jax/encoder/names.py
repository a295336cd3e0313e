"""Translates OpenShape's state dict and our variables: the table of names.

No PyTorch here, so that a model loads without it.  A tensor is
copied or transposed, never computed with: a round trip is bitwise.  (PyTorch
accumulates the unbiased batch variance in `running_var` and Flax the biased
one; a stored value is copied as it is.)
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.errors import BadInput
from mrd_jax.models.pointbert import HEAD_DIM, PointBERT

State = dict[str, np.ndarray]


class Row(NamedTuple):
  """One tensor under both names.

  Attributes:
    key: In OpenShape's `Projected(PointPatchTransformer, Linear)`.
    path: In our variables, joined with "/".
    rank: Of PyTorch's weight (out, in, 1, ...), whose transpose our (in, out)
      kernel is; 0 for a tensor that is the same in both.
  """

  key: str
  path: str
  rank: int = 0


class Shapes(NamedTuple):
  """What a state dict's shapes say; the groups' sizes are not in it.

  `embed_dim` is None for an encoder without projection.
  """

  width: int
  depth: int
  heads: int
  mlp_dim: int
  sa_dim: int
  embed_dim: int | None


def table(depth: int, *, projection: bool) -> list[Row]:
  """Lists all tensors of an encoder, `num_batches_tracked` excepted."""
  rows = [Row("ppat.cls_token", "params/cls_token")]

  def linear(key: str, path: str, rank: int = 2, bias: bool = True) -> None:
    rows.append(Row(f"{key}.weight", f"params/{path}/kernel", rank))
    if bias:
      rows.append(Row(f"{key}.bias", f"params/{path}/bias"))

  def norm(key: str, path: str) -> None:
    rows.append(Row(f"{key}.weight", f"params/{path}/scale"))
    rows.append(Row(f"{key}.bias", f"params/{path}/bias"))

  for i in range(3):
    linear(f"ppat.sa.mlp_convs.{i}", f"point_net/linear_{i}", rank=4)
    norm(f"ppat.sa.mlp_bns.{i}", f"point_net/norm_{i}")
    rows += [
      Row(
        f"ppat.sa.mlp_bns.{i}.running_{stat}",
        f"batch_stats/point_net/norm_{i}/{stat}",
      )
      for stat in ("mean", "var")
    ]
  linear("ppat.lift.0", "lift", rank=3)
  norm("ppat.lift.2", "lift_norm")
  for i in range(depth):
    layer, block = f"ppat.transformer.layers.{i}", f"block_{i}"
    norm(f"{layer}.0.norm", f"{block}/attention_norm")
    linear(f"{layer}.0.fn.to_qkv", f"{block}/qkv", bias=False)
    linear(f"{layer}.0.fn.to_out.0", f"{block}/attention_out")
    norm(f"{layer}.1.norm", f"{block}/mlp_norm")
    linear(f"{layer}.1.fn.net.0", f"{block}/mlp_in")
    linear(f"{layer}.1.fn.net.3", f"{block}/mlp_out")
  if projection:
    linear("proj", "proj")
  return rows


_COUNTERS = tuple(f"ppat.sa.mlp_bns.{i}.num_batches_tracked" for i in range(3))


def from_state_dict(state: Mapping[str, np.ndarray], name: str) -> Any:
  """Turns a state dict into variables, float32, after checking it.

  Args:
    state: Arrays by OpenShape's keys, without prefix.
    name: The file, for messages.

  Returns:
    {"params": ..., "batch_stats": ...} as nested dicts.

  Raises:
    BadInput: if a tensor is missing, unknown, or of another shape.
  """
  shapes = infer_shapes(state, name)
  expected = _expected_shapes(shapes)
  expected |= {key: () for key in _COUNTERS if key in state}
  unknown = sorted(state.keys() - expected.keys())
  missing = sorted(expected.keys() - state.keys())
  for keys, problem in ((missing, "lacks"), (unknown, "also holds")):
    if keys:
      more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
      raise BadInput(
        f"{name} {problem} {', '.join(keys[:3])}{more}: it is not an OpenShape "
        f"PointBERT of width {shapes.width} and depth {shapes.depth}"
      )
  for key, shape in expected.items():
    if state[key].shape != shape:
      raise BadInput(
        f"{name}: {key} has shape {state[key].shape}, must be {shape} in an "
        f"encoder of width {shapes.width}"
      )
    if not np.isfinite(state[key]).all():
      raise BadInput(f"{name}: {key} holds NaN or infinite values")
  return to_tree({k: np.asarray(v, np.float32) for k, v in state.items()})


def to_tree(tensors: Mapping[str, np.ndarray]) -> Any:
  """Tensors by OpenShape's keys (weights, or their gradients) as our tree.

  What has no counterpart in ours (`num_batches_tracked`) is left out; what is
  absent stays absent.
  """
  depth = _count_blocks(tensors)
  tree: dict = {}
  for key, path, rank in table(depth, projection="proj.weight" in tensors):
    if key not in tensors:
      continue
    value = np.asarray(tensors[key])
    *parents, leaf = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    if rank:
      value = value.reshape(value.shape[:2]).T
    # A copy: JAX may alias numpy memory, and torch updates its own in place.
    node[leaf] = np.array(value, order="C")
  return tree


def to_state_dict(variables: Any, *, num_batches_tracked: int) -> State:
  """Variables as a state dict that loads with `strict=True`.

  Args:
    variables: {"params", "batch_stats"} of `PointBERT`.
    num_batches_tracked: What BatchNorm's counters say: the training step.
  """
  params = variables["params"]
  depth = sum(name.startswith("block_") for name in params)
  state: State = {}
  for key, path, rank in table(depth, projection="proj" in params):
    value = np.asarray(_leaf(variables, path))
    if rank:
      value = value.T.reshape(*value.shape[::-1], *(1,) * (rank - 2))
    state[key] = np.ascontiguousarray(value)
  for key in _COUNTERS:
    state[key] = np.array(num_batches_tracked, np.int64)
  return state


def num_batches_tracked(state: Mapping[str, np.ndarray]) -> int:
  """Reads how many steps BatchNorm counted; 0 where it is not said."""
  return int(state.get(_COUNTERS[0], 0))


def infer_shapes(state: Mapping[str, np.ndarray], name: str) -> Shapes:
  """Infers the sizes that the tensors' shapes tell.

  Raises:
    BadInput: if it is not the state dict of a PointPatchTransformer.
  """

  def dim(key: str, axis: int) -> int:
    shape = state[key].shape[axis:] if key in state else ()
    if not shape or not shape[0]:
      raise BadInput(
        f"{name} has no {key} or an empty one: it is not an OpenShape "
        f"PointBERT; it holds {few(state)}"
      )
    return shape[0]

  qkv = "ppat.transformer.layers.0.0.fn.to_qkv.weight"
  heads, rest = divmod(dim(qkv, 0), 3 * HEAD_DIM)
  if rest:
    raise BadInput(
      f"{name}: {qkv} has {dim(qkv, 0)} rows, must be a multiple of "
      f"{3 * HEAD_DIM}: heads are {HEAD_DIM} wide"
    )
  return Shapes(
    width=dim("ppat.cls_token", 0),
    depth=_count_blocks(state),
    heads=heads,
    mlp_dim=dim("ppat.transformer.layers.0.1.fn.net.0.weight", 0),
    sa_dim=dim("ppat.sa.mlp_convs.2.weight", 0),
    embed_dim=dim("proj.weight", 0) if "proj.weight" in state else None,
  )


def _expected_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
  """Shapes of all tensors of the table, as our own model makes them."""
  *sizes, embed_dim = shapes
  size = PointBERTSize(*sizes, groups=1, radius=1.0, group_size=1)
  variables = jax.eval_shape(
    lambda key: PointBERT(size, embed_dim).init(
      key, jnp.zeros((1, 2, 6)), jnp.ones(1, jnp.int32), train=False
    ),
    jax.random.key(0),
  )
  expected = {}
  for key, path, rank in table(shapes.depth, projection=embed_dim is not None):
    shape = _leaf(variables, path).shape
    expected[key] = shape[::-1] + (1,) * (rank - 2) if rank else shape
  return expected


def _leaf(tree: Any, path: str) -> Any:
  return functools.reduce(lambda node, name: node[name], path.split("/"), tree)


def _count_blocks(state: Mapping[str, Any]) -> int:
  prefix = "ppat.transformer.layers."
  rest = [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
  return len({key.split(".")[0] for key in rest})


def few(state: Mapping[str, Any]) -> str:
  """Lists some of the names, for messages."""
  names = list(state)[:3]
  return ", ".join(names) + (", ..." if len(state) > 3 else "") or "nothing"
