"""Makes the mesh, and lays out batch and state over it.

One mesh with axes `data` and `fsdp`.  The batch is split over both; a
parameter (and its optimizer moments, and its average) is split over `fsdp`
along its longest divisible axis, and is whole on every device when that axis
has size one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mrd_jax.errors import BadInput

BATCH = ("data", "fsdp")


def make_mesh(fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
  """Devices as (data, fsdp); all that there are, unless some are given.

  Raises:
    BadInput: if the devices do not divide by `fsdp`.
  """
  if devices is None:
    devices = jax.devices()
  if fsdp < 1 or len(devices) % fsdp:
    raise BadInput(
      f"mesh.fsdp is {fsdp}, which does not divide the {len(devices)} "
      "devices; use 1 or a divisor"
    )
  # By process, not by `jax.make_mesh`, which reorders devices on TPU pods: a
  # process must hold consecutive rows of the batch (`data/batches.py`).
  ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
  return Mesh(
    np.array(ordered).reshape(-1, fsdp),
    BATCH,
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Lays the first axis over all devices."""
  return NamedSharding(mesh, P(BATCH))


def on_own_share(
  function: Callable[..., Any], layout: NamedSharding | None
) -> Callable[..., Any]:
  """Lets every device compute a function of its own share of a batch.

  Args:
    function: Of arrays (B, ...), to a tree of such arrays; nothing in it looks
      at another sample.
    layout: Of the batch over devices; None is one device.
  """
  if layout is None:
    return function
  spec = P(*layout.spec[:1])
  return jax.shard_map(
    function, mesh=layout.mesh, in_specs=spec, out_specs=spec
  )


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def with_state_sharding(mesh: Mesh, abstract_state):
  """Gives each array of a state its sharding, by the rule above.

  Args:
    mesh: The mesh.
    abstract_state: Any tree of `jax.ShapeDtypeStruct`.
  """
  size = mesh.shape["fsdp"]

  def rule(leaf) -> jax.ShapeDtypeStruct:
    divisible = [i for i, n in enumerate(leaf.shape) if n % size == 0 and n]
    spec = P()
    if size > 1 and divisible:
      axis = max(divisible, key=lambda i: leaf.shape[i])
      spec = P(*[None] * axis, "fsdp")
    return jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
    )

  return jax.tree.map(rule, abstract_state)


def gathered(tree, mesh: Mesh | None):
  """Gathers the arrays of a tree whole on every device, where they are used.

  For parameters: left to itself the compiler also shares out the work by
  their layout and sends activations around, which are larger.  The gradients
  come back whole and go to the device that updates them.  For embeddings:
  they are gathered once, not for every matrix.  None is one device.
  """
  if mesh is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def shardings_of(abstract_state):
  """Takes the shardings alone of what `with_state_sharding` returns."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract_state)


def check_batch_size(
  field: str, batch_size: int, mesh: Mesh, *, parts: int = 1
) -> None:
  """Raises BadInput, naming the field, unless devices share a batch evenly.

  Args:
    field: Name of the config field.
    batch_size: Its value.
    mesh: The devices.
    parts: Parts that each device takes its share in (`train.accumulate`).
  """
  unit = mesh.size * parts
  if batch_size < 1 or batch_size % unit:
    nearest = max(round(batch_size / unit), 1) * unit
    in_parts = f" in {parts} parts" if parts > 1 else ""
    raise BadInput(
      f"{field} is {batch_size}, which {mesh.size} devices cannot share "
      f"evenly{in_parts}; use a multiple of {unit}, for instance {nearest}"
    )


def to_global(local_batch, sharding: NamedSharding):
  """This process's rows of a batch as one global array each."""
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    local_batch,
  )


def to_local(global_array: jax.Array) -> np.ndarray:
  """This process's rows of an array whose first axis is over all devices."""
  shards = sorted(
    global_array.addressable_shards, key=lambda shard: shard.index[0].start or 0
  )
  return np.concatenate([np.asarray(shard.data) for shard in shards])
