"""Weights between our encoder and its PyTorch twin, for parity tests."""

import numpy as np
import torch

from mrd_jax.convert.pointbert_torch import PointPatchTransformer, Projected
from mrd_jax.models.pointbert import PointBERTSize


def make_twin(size: PointBERTSize, embed_dim: int, seed: int = 0) -> Projected:
  """The twin of a size, with random affine parameters in its norms."""
  torch.manual_seed(seed)
  twin = Projected(
    PointPatchTransformer(
      size.width,
      size.depth,
      size.heads,
      size.mlp_dim,
      size.sa_dim,
      size.groups,
      size.radius,
      size.group_size,
    ),
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


def _names(depth: int) -> dict[str, tuple[str, str]]:
  """Twin's module -> (our module, kind)."""
  names = {
    "ppat.lift.0": ("lift", "linear"),
    "ppat.lift.2": ("lift_norm", "norm"),
    "proj": ("proj", "linear"),
  }
  for i in range(3):
    names[f"ppat.sa.mlp_convs.{i}"] = (f"point_net/linear_{i}", "linear")
    names[f"ppat.sa.mlp_bns.{i}"] = (f"point_net/norm_{i}", "norm")
  for i in range(depth):
    layer = f"ppat.transformer.layers.{i}"
    names |= {
      f"{layer}.0.norm": (f"block_{i}/attention_norm", "norm"),
      f"{layer}.0.fn.to_qkv": (f"block_{i}/qkv", "linear"),
      f"{layer}.0.fn.to_out.0": (f"block_{i}/attention_out", "linear"),
      f"{layer}.1.norm": (f"block_{i}/mlp_norm", "norm"),
      f"{layer}.1.fn.net.0": (f"block_{i}/mlp_in", "linear"),
      f"{layer}.1.fn.net.3": (f"block_{i}/mlp_out", "linear"),
    }
  return names


def to_flax(tensors: dict[str, torch.Tensor], depth: int) -> dict:
  """A state dict, or one of gradients, as Flax variables.

  Returns:
    {"params": ..., "batch_stats": ...} as nested dicts of numpy arrays; the
    statistics are absent where `tensors` has none.
  """
  flat = {"params/cls_token": tensors["ppat.cls_token"].detach().numpy()}
  for theirs, (ours, kind) in _names(depth).items():
    weight = tensors[f"{theirs}.weight"].detach().numpy()
    if kind == "linear":
      weight = weight.reshape(*weight.shape[:2]).T
      flat[f"params/{ours}/kernel"] = weight
    else:
      flat[f"params/{ours}/scale"] = weight
    if f"{theirs}.bias" in tensors:
      flat[f"params/{ours}/bias"] = tensors[f"{theirs}.bias"].detach().numpy()
    if f"{theirs}.running_mean" in tensors:
      for stat in ("mean", "var"):
        flat[f"batch_stats/{ours}/{stat}"] = (
          tensors[f"{theirs}.running_{stat}"].detach().numpy()
        )
  return _nest(flat)


def _nest(flat: dict[str, np.ndarray]) -> dict:
  tree: dict = {}
  for path, value in flat.items():
    *parents, leaf = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    # A copy: JAX may alias numpy memory, torch updates its own in place.
    node[leaf] = np.array(value)
  return tree


def surface_clouds(seed: int, batch: int, points: int) -> np.ndarray:
  """Random coloured clouds: (batch, points, 6) float32 in the unit ball."""
  rng = np.random.default_rng(seed)
  xyz = rng.normal(size=(batch, points, 3))
  xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
  xyz *= np.where(rng.random((batch, points, 1)) < 0.5, 1.0, 0.6)
  rgb = rng.random((batch, points, 3))
  return np.concatenate([xyz, rgb], axis=-1).astype(np.float32)
