"""Classifies shapes by what an encoder gives, with Point-BERT's head."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mrd_jax.models.pointbert import Linear, PointBERT


class Classifier(nn.Module):
  """An encoder and a two-layer head.

  The head is Point-BERT's (arXiv 2111.14819, section 4.2).  Of a `PointBERT`
  [cls, maximum over the patch tokens] feeds it.  That is our trunk's last
  block: Point-BERT's has a LayerNorm after it, ours has none that was
  pre-trained, so none is put there.

  Of any other system its embedding (B, D) feeds the head, whatever it is made
  of.  Its BatchNorms, if it has any, keep their running statistics, whether it
  is trained or not: so each cloud's embedding is its own, and each device
  makes those of its share.

  Attributes:
    encoder: A `PointBERT` with `output="tokens"`, or the module of another
      system of `zoo/`.
    classes: C.
    hidden: Width of the hidden layer.
    dropout: Share of the hidden layer that is dropped in training.
    batch_sharding: Layout of the batch over devices, for another system; None
      on a single one.
  """

  encoder: Any
  classes: int
  hidden: int
  dropout: float
  batch_sharding: NamedSharding | None = None

  @nn.compact
  def __call__(
    self, points_BN6: jax.Array, num_points_B: jax.Array, *, train: bool
  ) -> jax.Array:
    """Classifies a batch of clouds.

    In training, the random streams "dropout" and "drop_path" are needed where
    their rates are above 0.

    Args:
      points_BN6: (B, N, 6) float32, as for the encoder.
      num_points_B: (B,) int32, how many leading points of a cloud exist.
      train: Whether something is dropped, and a PointBERT's BatchNorm uses
        (and records) the batch's statistics.

    Returns:
      (B, C) float32 logits.
    """
    if isinstance(self.encoder, PointBERT):
      x_BLD = self.encoder(points_BN6, num_points_B, train=train)
      x_BF = jnp.concatenate([x_BLD[:, 0], x_BLD[:, 1:].max(axis=1)], axis=-1)
    else:
      x_BF = self._embed(points_BN6, num_points_B)
    x_BH = nn.relu(Linear(self.hidden, dtype=x_BF.dtype, name="hidden")(x_BF))
    x_BH = nn.Dropout(self.dropout, deterministic=not train)(x_BH)
    return Linear(self.classes, dtype=x_BF.dtype, name="classes")(x_BH)

  def _embed(self, points_BN6: jax.Array, num_points_B: jax.Array) -> jax.Array:
    """Embeds clouds with another system's encoder, each device its own."""
    if self.batch_sharding is None:
      return self.encoder(points_BN6, num_points_B, train=False)
    alone = self.encoder.clone(parent=None)
    share = P(*self.batch_sharding.spec[:1])
    # Unchecked: loops that start from constants are said to differ by device.
    embed = jax.shard_map(
      functools.partial(alone.apply, train=False),
      mesh=self.batch_sharding.mesh,
      in_specs=(P(), share, share),
      out_specs=share,
      check_vma=False,
    )
    return embed(self.encoder.variables, points_BN6, num_points_B)
