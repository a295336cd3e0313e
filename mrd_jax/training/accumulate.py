"""Embeds a batch that does not fit, part by part, with its exact gradient.

The losses compare every sample of the global batch with every other, so a
gradient of parts' losses would be another one.  Here the losses see all
embeddings; only the encoder works on one part of the batch at a time, forward
and, since each part is rematerialised, backward again: what is kept of a part
are its groups and its embeddings.  JAX adds up the parts' gradients when it
transposes the loop (the scheme of GradCache, arXiv 2101.06983, is what
results).
"""

from collections.abc import Callable
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
  """Computes in `parts` what `encoder` gives in training for a batch.

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
  layout = encoder.batch_sharding

  def reshape(tree: Any, to: Callable[[jax.Array], jax.Array], split: bool):
    """Splits (B, ...) into (parts, B / parts, ...), or joins it again.

    Every device reshapes what it holds, so that each part has a share of every
    device and nothing moves between them.
    """
    if layout is None:
      return jax.tree.map(to, tree)
    whole, in_parts = P(layout.spec[0]), P(None, layout.spec[0])
    return jax.shard_map(
      lambda tree: jax.tree.map(to, tree),
      mesh=layout.mesh,
      in_specs=whole if split else in_parts,
      out_specs=in_parts if split else whole,
    )(tree)

  groups: Any = encoder.apply(
    {}, points_BN6, num_points_B, method=PointBERT.group
  )
  groups = reshape(
    groups, lambda x: x.reshape(parts, -1, *x.shape[1:]), split=True
  )
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
  point = reshape(point, lambda x: x.reshape(-1, *x.shape[2:]), split=False)
  return point, running


def _batch_statistics(
  encoder: PointBERT, variables: dict[str, Any], groups: Groups
) -> Any:
  """Computes BatchNorm's statistics of the whole batch, from its parts.

  Args:
    encoder: The encoder.
    variables: {"params", "batch_stats"}.
    groups: (parts, B / parts, ...) each.

  Returns:
    A tree like "batch_stats".
  """
  # BatchNorm couples the samples of a batch: every embedding depends, through
  # mean and variance, on every cloud, and so does its gradient.  A part that
  # used its own statistics would be another function.  So the statistics are
  # made first, of all parts, and then enter `embed` as if they were running
  # ones; they are functions of the parameters, not constants, and what the
  # loss says about them flows back through this function, too.
  #
  # A layer's statistics depend on the layers before it, which must already be
  # normalised by theirs: hence one pass over all parts for each of the three
  # layers, every pass with the final statistics of the layers before
  # (3 % of M's operations).  What a pass says about later layers, whose
  # statistics are still the old ones, is not used.
  #
  # Parts are equally large, so the mean is the mean of their means, and the
  # variance the mean of their variances plus the variance of their means.
  point_net = MiniPointNet(
    encoder.size.sa_dim,
    encoder.dtype,
    encoder.point_net,
    encoder.batch_sharding,
  )
  params = variables["params"]["point_net"]
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

  for layer in sorted(statistics):
    ((mean_PC, variance_PC),) = jax.lax.map(
      lambda part, known=dict(statistics), layer=layer: moments(
        params, known, part
      )[f"into_{layer}"],
      groups.features,
    )
    mean_C = mean_PC.mean(axis=0)
    variance_C = (variance_PC + (mean_PC - mean_C) ** 2).mean(axis=0)
    statistics[layer] = {"mean": mean_C, "var": variance_C}
  return {"point_net": statistics}
