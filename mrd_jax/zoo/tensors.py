"""Translates a published model's tensors and our variables, by a table of rows.

A tensor is copied or transposed, never computed with: a round trip is bitwise.
No PyTorch here, so that a model loads without it.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.torch_tensor import Tensor

State = dict[str, np.ndarray]


class Row(NamedTuple):
  """One tensor under both names.

  Attributes:
    key: In the published model's state dict, without the prefix of a trainer.
    path: In our variables, joined with "/".
    rank: Of PyTorch's weight (out, in, 1, ...), whose transpose our (in, out)
      kernel is; 0 for a tensor that is the same in both.
    conv: Whether it is a convolution's (out, in, height, width), which is ours
      as (height, width, in, out).
    layer: Where layers are scanned: its place along the first axis of ours.
      The rows of all layers of a path follow each other in this order.
    shape: Of the published tensor, where ours has the same numbers in another
      shape: a convolution by patches, which is ours as a product.
  """

  key: str
  path: str
  rank: int = 0
  conv: bool = False
  layer: int | None = None
  shape: tuple[int, ...] = ()


def linear(
  key: str, path: str, *, rank: int = 2, bias: bool = True
) -> list[Row]:
  """Lists the rows of a linear layer, or a convolution of size 1."""
  rows = [Row(f"{key}.weight", f"params/{path}/kernel", rank)]
  return rows + bias * [Row(f"{key}.bias", f"params/{path}/bias")]


def norm(key: str, path: str) -> list[Row]:
  """Lists the rows of a norm's scale and bias."""
  return [
    Row(f"{key}.weight", f"params/{path}/scale"),
    Row(f"{key}.bias", f"params/{path}/bias"),
  ]


def batch_norm(key: str, path: str) -> list[Row]:
  """Lists the rows of a BatchNorm, running statistics included."""
  return norm(key, path) + [
    Row(f"{key}.running_{stat}", f"batch_stats/{path}/{stat}")
    for stat in ("mean", "var")
  ]


def to_variables(
  rows: Sequence[Row],
  model: nn.Module,
  state: Mapping[str, np.ndarray | Tensor],
  name: str,
  *,
  unused: Callable[[str], bool] = lambda key: False,
  inputs: Sequence[Any] | None = None,
) -> Any:
  """Turns a state dict into a model's variables, float32, after checking it.

  Args:
    rows: The table.
    model: Called as (points (B, N, 6), num_points (B,), train=False), or with
      `inputs`.
    state: Arrays by the published keys, without prefix, or tensors of a file:
      each of these is read by itself, once, when all the shapes are right.
    name: The file, for messages.
    unused: Whether a key that the table lacks may be there;
      `num_batches_tracked` always may.
    inputs: Of a model that does not embed clouds.

  Returns:
    {"params": ..., "batch_stats": ...} as nested dicts.

  Raises:
    BadInput: if a tensor is missing, unknown, of another shape or not finite.
  """
  expected = _expected_shapes(rows, model, inputs)
  missing = sorted(expected.keys() - state.keys())
  unknown = sorted(
    key
    for key in state.keys() - expected.keys()
    if not key.endswith("num_batches_tracked") and not unused(key)
  )
  for keys, problem in ((missing, "lacks"), (unknown, "also holds")):
    if keys:
      raise BadInput(f"{name} {problem} {few(keys)}")
  counters = [key for key in state if key.endswith("num_batches_tracked")]
  for key, shape in (expected | dict.fromkeys(counters, ())).items():
    if state[key].shape != shape:
      raise BadInput(
        f"{name}: {key} has shape {state[key].shape}, must be {shape}"
      )
  for key in counters:
    if not np.isfinite(np.asarray(state[key])):
      raise BadInput(f"{name}: {key} holds NaN or infinite values")
  return to_tree(rows, state, name)


def to_tree(
  rows: Iterable[Row],
  state: Mapping[str, np.ndarray | Tensor],
  name: str = "",
) -> Any:
  """Puts tensors by their published keys into our tree; absent ones stay so.

  Args:
    rows: The table.
    state: Arrays by the published keys, or tensors of a file, which are read
      one after the other.
    name: The file, of whose tensors float32 is made and those that are not
      finite are refused; "" keeps numbers as they are.

  Raises:
    BadInput: naming the file and the tensor, if one is not finite.
  """
  present = [row for row in rows if row.key in state]
  layers = collections.Counter(row.path for row in present)
  filled: collections.Counter[str] = collections.Counter()
  tree: dict = {}
  for row in present:
    value = np.asarray(state[row.key])
    of_file = name and value.dtype.kind == "f"
    dtype = np.float32 if of_file else value.dtype
    if row.rank:
      value = value.reshape(value.shape[:2]).T
    elif row.conv:
      value = value.transpose(2, 3, 1, 0)
    elif row.shape:
      value = value.reshape(len(value), -1)
    *parents, leaf = row.path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    if leaf not in node:
      scanned = () if row.layer is None else (layers[row.path],)
      node[leaf] = np.empty((*scanned, *value.shape), dtype)
    place = ... if row.layer is None else filled[row.path]
    # A copy: JAX may alias numpy memory, and torch updates its own in place.
    with np.errstate(over="ignore"):  # of a float64: infinite, see below
      node[leaf][place] = value
    if name and not np.isfinite(node[leaf][place]).all():
      raise BadInput(f"{name}: {row.key} holds NaN or infinite values")
    filled[row.path] += 1
  return tree


def to_state(rows: Iterable[Row], variables: Any) -> State:
  """Takes tensors of our tree by their published keys."""
  state: State = {}
  for key, path, rank, conv, layer, shape in rows:
    value = np.asarray(_leaf(variables, path))
    if layer is not None:
      value = value[layer]
    if rank:
      value = value.T.reshape(*value.shape[::-1], *(1,) * (rank - 2))
    elif conv:
      value = value.transpose(3, 2, 0, 1)
    elif shape:
      value = value.reshape(shape)
    state[key] = np.ascontiguousarray(value)
  return state


def _expected_shapes(
  rows: Iterable[Row], model: nn.Module, inputs: Sequence[Any] | None = None
) -> dict[str, tuple[int, ...]]:
  """Finds the shapes of all rows' tensors, as our own model makes them."""
  init = model.init
  if inputs is None:
    inputs = jnp.zeros((1, 2, 6)), jnp.ones(1, jnp.int32)
    init = functools.partial(init, train=False)
  variables = jax.eval_shape(init, jax.random.key(0), *inputs)
  expected = {}
  for key, path, rank, conv, layer, published in rows:
    shape = _leaf(variables, path).shape
    if layer is not None:
      shape = shape[1:]
    if rank:
      shape = shape[::-1] + (1,) * (rank - 2)
    elif conv:
      shape = (shape[3], shape[2], *shape[:2])
    expected[key] = published or shape
  return expected


def _leaf(tree: Any, path: str) -> Any:
  return functools.reduce(lambda node, name: node[name], path.split("/"), tree)


def shapes(
  state: Mapping[str, np.ndarray], axes: Mapping[str, int]
) -> list[tuple[int, ...]] | None:
  """Looks up the shapes of the tensors that tell a system and its size.

  Args:
    state: A state dict.
    axes: How many axes each of the tensors has, by its key.

  Returns:
    Their shapes, in order; None if one is absent, has other axes or is empty.
  """
  found = [state[key].shape for key in axes if key in state]
  if [len(shape) for shape in found] != list(axes.values()):
    return None
  return None if any(0 in shape for shape in found) else found


def count(state: Iterable[str], prefix: str) -> int:
  """Counts the numbered layers `PREFIX.0`, `PREFIX.1`, ... of a state dict."""
  prefix += "."
  rest = (key.removeprefix(prefix) for key in state if key.startswith(prefix))
  return len({key.split(".")[0] for key in rest})


def few(names: Iterable[str]) -> str:
  """Lists the first of some names, for messages."""
  names = list(names)
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return (", ".join(names[:3]) + more) or "nothing"
