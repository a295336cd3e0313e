"""The resize with aligned corners, against PyTorch's."""

import jax
import numpy as np
import pytest

from mrd_jax.models.resize import resize_bilinear

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
  "shape", [(2, 3, 110, 110), (7, 5), (128, 128), (1, 3)]
)
def test_equals_pytorch_to_the_bit(shape):
  images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(images.reshape(1, -1, *shape[-2:])),
    size=(224, 224),
    mode="bilinear",
    align_corners=True,
  )
  found = jax.jit(resize_bilinear, static_argnums=1)(images, 224)
  assert found.shape == (*shape[:-2], 224, 224)
  np.testing.assert_array_equal(found, expected.numpy().reshape(found.shape))


def test_corners_stay_and_jax_moves_them():
  image = np.arange(9, dtype=np.float32).reshape(3, 3)
  found = resize_bilinear(image, 8)
  np.testing.assert_array_equal(found[::7, ::7], image[::2, ::2])
  assert abs(found - jax.image.resize(image, (8, 8), "bilinear")).max() > 0.1
