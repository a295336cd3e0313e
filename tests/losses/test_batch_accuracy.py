"""The batch's accuracies count ties as the evaluation does: as misses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import mrd

SAMPLES = 12


def accuracies(form: str, point, has_text) -> tuple[float, float]:
  """Of images and of texts, where both are as the points are."""
  config = LossConfig(intra=False, cross=False, form=form, stripe=3)
  embeddings = mrd.Embeddings(point, point, point, has_text)
  _, metrics = jax.jit(lambda x: mrd.mrd_loss(config, x, jnp.log(10.0), {}))(
    embeddings
  )
  return float(metrics["accuracy/image"]), float(metrics["accuracy/text"])


@pytest.mark.parametrize("form", ["dense", "gather"])
def test_a_tie_is_a_miss(form):
  point = np.eye(SAMPLES, dtype=np.float32)
  has_text = np.ones(SAMPLES, bool)
  assert accuracies(form, point, has_text) == (1, 1)
  point[9] = point[2]  # of another tile
  found = accuracies(form, point, has_text)
  assert found == pytest.approx((10 / 12, 10 / 12))
  # A sample without a text ties with nobody.
  has_text[9] = False
  found = accuracies(form, point, has_text)
  assert found == pytest.approx((10 / 12, 1))
  # A collapsed student knows nothing.
  point[:] = point[0]
  assert accuracies(form, point, has_text) == (0, 0)
  has_text[1:] = False
  assert accuracies(form, point, has_text) == (0, 1)
