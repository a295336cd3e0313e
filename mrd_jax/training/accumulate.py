"""A batch that does not fit: its gradient, part by part, and yet exactly.

The losses compare every sample of the global batch with every other, so a
gradient of parts' losses would be another one.  Here the losses see all
embeddings; only the encoder works on one part of the batch at a time, forward
and, since each part is rematerialised, backward again: what is kept of a part
are its groups and its embeddings.  JAX adds up the parts' gradients when it
transposes the loop (the scheme of GradCache, arXiv 2101.06983, is what
results).

BatchNorm couples the samples too.  Its statistics are made first, a layer at
a time over all parts, and enter as constants of the batch that carry their
gradient: three more passes of the mini-PointNet, 3 % of M's operations.
"""

from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from mrd_jax.models.mini_pointnet import MOMENTUM, MiniPointNet
from mrd_jax.models.point_ops import Groups
from mrd_jax.models.pointbert import PointBERT


def embed_in_parts(
  encoder: PointBERT,
  variables: dict[str, Any],
  points_BN6: jax.Array,
  num_points_B: jax.Array,
  parts: int,
) -> tuple[jax.Array, Any]:
  """What `encoder` gives in training for a batch, computed in `parts`.

  Args:
    encoder: The encoder, without drop path.
    variables: {"params", "batch_stats"}.
    points_BN6: (B, N, 6) the clouds.
    num_points_B: (B,) int32, how many leading points of each exist.
    parts: How many; divides each device's share of the batch.

  Returns:
    (B, D) embeddings and the new running statistics, both equal but for
    rounding to those of `encoder.apply(..., train=True)`.
  """
  groups: Any = encoder.apply(
    {}, points_BN6, num_points_B, method=PointBERT.group
  )
  groups = _split(encoder, groups, parts)
  statistics = _batch_statistics(encoder, variables, groups)

  @jax.checkpoint
  def embed(params, statistics, groups: Groups) -> Any:
    return encoder.apply(
      {"params": params, "batch_stats": statistics},
      groups,
      train=False,  # with the statistics of this batch for the running ones
      method=PointBERT.embed,
    )

  point = jax.lax.map(
    lambda part: embed(variables["params"], statistics, part), groups
  )
  running = jax.tree.map(
    lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new,
    variables["batch_stats"],
    statistics,
  )
  return _join(encoder, point), running


def _batch_statistics(
  encoder: PointBERT, variables: dict[str, Any], groups: Groups
) -> Any:
  """BatchNorm's statistics of the whole batch, in a tree like "batch_stats".

  Those of a layer depend on those of the layers before it.

  Args:
    encoder: The encoder.
    variables: {"params", "batch_stats"}.
    groups: (parts, B / parts, ...) each.
  """
  point_net = MiniPointNet(encoder.size.sa_dim, encoder.dtype)
  statistics = dict(variables["batch_stats"]["point_net"])

  @jax.checkpoint
  def moments(params, statistics, features_BGKC: jax.Array) -> Any:
    _, seen = point_net.apply(
      {"params": params, "batch_stats": statistics},
      features_BGKC.astype(encoder.dtype),
      train=False,
      mutable=["intermediates"],
    )
    return seen["intermediates"]

  def over_all_parts(statistics, layer: str) -> dict[str, jax.Array]:
    params = variables["params"]["point_net"]
    ((mean_PC, variance_PC),) = jax.lax.map(
      lambda part: moments(params, statistics, part)[f"into_{layer}"],
      groups.features,
    )
    mean_C = mean_PC.mean(axis=0)
    variance_C = (variance_PC + (mean_PC - mean_C) ** 2).mean(axis=0)
    return {"mean": mean_C, "var": variance_C}

  for layer in sorted(statistics):
    statistics[layer] = over_all_parts(dict(statistics), layer)
  return {"point_net": statistics}


def _split(encoder: PointBERT, tree, parts: int):
  """(B, ...) -> (parts, B / parts, ...), each with a share of every device."""
  return _locally(
    encoder,
    lambda x: x.reshape(parts, -1, *x.shape[1:]),
    tree,
    lambda batch: (P(batch), P(None, batch)),
  )


def _join(encoder: PointBERT, tree):
  """The reverse of `_split`."""
  return _locally(
    encoder,
    lambda x: x.reshape(-1, *x.shape[2:]),
    tree,
    lambda batch: (P(None, batch), P(batch)),
  )


def _locally(encoder: PointBERT, reshape, tree, specs):
  """Reshapes what each device holds; nothing moves between devices."""
  layout = encoder.batch_sharding
  if layout is None:
    return jax.tree.map(reshape, tree)
  before, after = specs(layout.spec[0])
  return jax.shard_map(
    lambda tree: jax.tree.map(reshape, tree),
    mesh=layout.mesh,
    in_specs=before,
    out_specs=after,
  )(tree)
