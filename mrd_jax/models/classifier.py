"""Classifies shapes by the encoder's tokens, with Point-BERT's head."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models.pointbert import Linear, PointBERT


class Classifier(nn.Module):
  """The trunk and a two-layer head on [cls, maximum over the patch tokens].

  The head is Point-BERT's (arXiv 2111.14819, section 4.2).  What feeds it is
  our trunk's last block: Point-BERT's has a LayerNorm after it, ours has none
  that was pre-trained, so none is put there.

  Attributes:
    encoder: The trunk, with `output="tokens"`.
    classes: C.
    hidden: Width of the hidden layer.
    dropout: Share of the hidden layer that is dropped in training.
  """

  encoder: PointBERT
  classes: int
  hidden: int
  dropout: float

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
      train: Whether BatchNorm uses (and records) the batch's statistics and
        something is dropped.

    Returns:
      (B, C) float32 logits.
    """
    x_BLD = self.encoder(points_BN6, num_points_B, train=train)
    x_BF = jnp.concatenate([x_BLD[:, 0], x_BLD[:, 1:].max(axis=1)], axis=-1)
    x_BH = nn.relu(Linear(self.hidden, dtype=x_BF.dtype, name="hidden")(x_BF))
    x_BH = nn.Dropout(self.dropout, deterministic=not train)(x_BH)
    return Linear(self.classes, dtype=x_BF.dtype, name="classes")(x_BH)
