"""Runs the encoder's stages on both sides, on the same clouds and weights.

A stage is named as it is printed; both sides have the same names, ours in the
order of computation.
"""

import functools
from typing import Any

import jax
import numpy as np
import torch

from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.convert import pointbert_modules
from mrd_jax.data.examples import Examples
from mrd_jax.models import point_ops
from mrd_jax.models.mini_pointnet import MOMENTUM
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.zoo import openshape

SAMPLES, NEIGHBOURS = "FPS indices", "ball query indices"
EMBEDDING = "normalised embedding"
STATISTICS = "running statistics"


def snap(examples: Examples) -> Examples:
  """Rounds coordinates to multiples of 2^-10.

  Every squared distance is then exact in float32, so that both sides must
  choose the same points: an index that differs is an error, not rounding.
  """
  points = np.array(examples.points)
  points[..., :3] = np.rint(points[..., :3] * 1024) / 1024
  return examples._replace(points=points)


@functools.partial(jax.jit, static_argnums=0)
def jax_indices(
  size: PointBERTSize, examples: Examples
) -> dict[str, jax.Array]:
  """Returns what our tokenizer chooses."""

  def one(cloud):
    xyz_N3, n = cloud
    chosen = point_ops.farthest_point_sample(xyz_N3, n, size.groups)
    neighbours = point_ops.ball_query(
      xyz_N3, xyz_N3[chosen], n, radius=size.radius, group_size=size.group_size
    )
    return {SAMPLES: chosen, NEIGHBOURS: neighbours}

  return jax.lax.map(one, (examples.points[..., :3], examples.num_points))


def torch_indices(
  size: PointBERTSize, examples: Examples, device: str
) -> dict[str, np.ndarray]:
  """Returns what PyTorch's tokenizer chooses."""
  xyz, num_points = (
    torch.tensor(x, device=device)
    for x in (examples.points[..., :3], examples.num_points)
  )
  chosen = pointbert_modules.farthest_point_sample(xyz, size.groups, num_points)
  centers = xyz.gather(1, chosen[..., None].expand(-1, -1, 3))
  neighbours = pointbert_modules.ball_query(
    xyz, centers, size.radius, size.group_size, num_points
  )
  return {SAMPLES: chosen.cpu().numpy(), NEIGHBOURS: neighbours.cpu().numpy()}


def jax_forward(
  model: PointBERT, variables: Any, examples: Examples, *, train: bool
) -> dict[str, Any]:
  """Runs our forward pass.

  Returns:
    Arrays by stage; in training also the running {"mean", "var"} of all
    BatchNorms after the pass, as PyTorch keeps them.
  """
  groups, embedding, updates = jax.device_get(
    _apply(model, train, variables, examples.points, examples.num_points)
  )
  found = updates["intermediates"]
  stages = {
    "group centres": groups.center_xyz,
    "group features": groups.features,
    "mini-PointNet": found["point_net"]["__call__"][0],
    "lift": found["lift_norm"]["__call__"][0],
  }
  for i in range(model.size.depth):
    stages[f"block {i}"] = found[f"block_{i}"]["__call__"][0]
  stages["head"] = embedding
  stages[EMBEDDING] = _unit(embedding)
  if train:
    before, after = variables["batch_stats"], updates["batch_stats"]
    values = np.prod(groups.features.shape[:3])  # of a channel
    stages[STATISTICS] = unbias(
      before["point_net"], after["point_net"], int(values)
    )
  return stages


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(
  model: PointBERT,
  train: bool,
  variables: Any,
  points: jax.Array,
  num_points: jax.Array,
):
  groups = model.apply({}, points, num_points, method=PointBERT.group)
  embedding, updates = model.apply(
    variables,
    groups,
    method=PointBERT.embed,
    train=train,
    mutable=["intermediates", "batch_stats"],
    capture_intermediates=lambda module, _: len(module.path) == 1,
  )
  return groups, embedding, updates


def torch_forward(
  model: pointbert_modules.Projected,
  examples: Examples,
  *,
  train: bool,
  bfloat16: bool,
) -> dict[str, Any]:
  """Runs PyTorch's forward pass, and leaves the model as it was.

  Returns:
    Arrays by stage, and the running statistics.
  """
  stages: dict[str, Any] = {}

  def keep(name: str):
    return lambda module, inputs, output: stages.update({name: output})

  def keep_groups(module, inputs):
    stages["group features"] = inputs[0].permute(0, 3, 2, 1)

  def keep_point_net(module, inputs, output):
    centers, features = output
    stages["group centres"] = centers.transpose(1, 2)
    stages["mini-PointNet"] = features.transpose(1, 2)

  ppat = model.ppat
  hooks = [
    ppat.sa.mlp_convs[0].register_forward_pre_hook(keep_groups),
    ppat.sa.register_forward_hook(keep_point_net),
    ppat.lift.register_forward_hook(keep("lift")),
    *(
      block.register_forward_hook(keep(f"block {i}"))
      for i, block in enumerate(ppat.transformer.layers)
    ),
  ]
  state = {k: v.clone() for k, v in model.named_buffers()}
  try:
    with torch.no_grad():
      stages["head"] = torch_apply(
        model, examples, train=train, bfloat16=bfloat16
      )
    buffers = {k: _numpy(v) for k, v in model.named_buffers()}
  finally:
    for hook in hooks:
      hook.remove()
    model.load_state_dict(state, strict=False)
  arrays: dict[str, Any] = {name: _numpy(x) for name, x in stages.items()}
  arrays[EMBEDDING] = _unit(arrays["head"])
  arrays[STATISTICS] = openshape.to_tree(buffers)["batch_stats"]["point_net"]
  return arrays


def torch_apply(
  model: pointbert_modules.Projected,
  examples: Examples,
  *,
  train: bool,
  bfloat16: bool,
) -> torch.Tensor:
  """Returns PyTorch's embeddings (B, D), in bfloat16 by `torch.autocast`."""
  weight = model.ppat.cls_token
  device = weight.device
  points = torch.tensor(examples.points, device=device, dtype=weight.dtype)
  num_points = torch.tensor(examples.num_points, device=device)
  model.train(train)
  try:
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
      return model(points[..., :3], points, num_points).to(weight.dtype)
  finally:
    model.eval()


def unbias(statistics: Any, new: Any, count: int) -> Any:
  """Returns our running statistics as PyTorch keeps them, after one pass.

  Both mix the batch's variance into the running one; PyTorch's is the
  unbiased, a factor n / (n - 1) with n values a channel.

  Args:
    statistics: Ours before the pass.
    new: Ours after it.
    count: n.
  """
  factor = count / (count - 1)

  def correct(path, old, new):
    if path[-1].key != "var":
      return new
    return MOMENTUM * old + factor * (new - MOMENTUM * old)

  return jax.tree_util.tree_map_with_path(correct, statistics, new)


def _numpy(x: torch.Tensor) -> np.ndarray:
  x = x.detach().cpu()
  # A copy: PyTorch updates its buffers in place.
  wide = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
  return x.to(wide, copy=True).numpy()


def _unit(x_BD: Any) -> np.ndarray:
  x_BD = np.asarray(x_BD, np.float64)
  return x_BD / np.linalg.norm(x_BD, axis=-1, keepdims=True)
