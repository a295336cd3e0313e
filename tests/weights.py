"""Weights between our encoder and its PyTorch twin, for parity tests."""

import numpy as np
import torch

from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.convert.pointbert_modules import PointPatchTransformer, Projected
from mrd_jax.zoo.openshape import to_tree


def make_twin(size: PointBERTSize, embed_dim: int, seed: int = 0) -> Projected:
  """The twin of a size, with random affine parameters in its norms."""
  torch.manual_seed(seed)
  twin = Projected(
    PointPatchTransformer(*vars(size).values()),
    torch.nn.Linear(size.width, embed_dim),
  )
  with torch.no_grad():
    for name, parameter in twin.named_parameters():
      if "norm" in name or "bns" in name or "lift.2" in name:
        parameter.add_(0.1 * torch.randn_like(parameter))
    for name, buffer in twin.named_buffers():
      if name.endswith("running_mean"):
        buffer.add_(0.1 * torch.randn_like(buffer))
      elif name.endswith("running_var"):
        buffer.mul_(1 + 0.2 * torch.rand_like(buffer))
  return twin


def to_flax(tensors: dict[str, torch.Tensor]) -> dict:
  """A twin's state dict, or gradients by its names, as Flax variables."""
  return to_tree({k: v.detach().numpy() for k, v in tensors.items()})


def surface_clouds(seed: int, batch: int, points: int) -> np.ndarray:
  """Random coloured clouds: (batch, points, 6) float32 in the unit ball."""
  rng = np.random.default_rng(seed)
  xyz = rng.normal(size=(batch, points, 3))
  xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
  xyz *= np.where(rng.random((batch, points, 1)) < 0.5, 1.0, 0.6)
  rgb = rng.random((batch, points, 3))
  return np.concatenate([xyz, rgb], axis=-1).astype(np.float32)
