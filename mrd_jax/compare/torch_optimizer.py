"""Makes AdamW with parameter groups by name."""

from collections.abc import Mapping

import torch
from torch import Tensor


def takes_decay(name: str, parameter: Tensor) -> bool:
  """Says whether this is the weight of a Linear or a Conv layer."""
  return name.endswith(".weight") and parameter.ndim >= 2


def make_optimizer(
  model_params: Mapping[str, Tensor],
  dynamic_weights: Mapping[str, Tensor],
  *,
  lr: float,
  dynamic_lr: float,
  weight_decay: float = 0.05,
  betas: tuple[float, float] = (0.9, 0.999),
  eps: float = 1e-8,
) -> torch.optim.AdamW:
  """Makes AdamW over the groups "decay", "no_decay", "dynamic_weights".

  Args:
    model_params: name -> tensor, all but the dynamic weights: the encoder's
      parameters by their state-dict names, and "logit_scale".
    dynamic_weights: name -> tensor, the logits of Eq. 9; never decayed.
    lr: learning rate of model_params.
    dynamic_lr: learning rate of dynamic_weights.
    weight_decay: of the weights of Linear and Conv layers; biases, norms, cls
      token and logit scale have none.
    betas: of AdamW.
    eps: of AdamW.

  Returns:
    A torch.optim.AdamW; each group has its "name".
  """
  decayed, plain = [], []
  for name, parameter in model_params.items():
    (decayed if takes_decay(name, parameter) else plain).append(parameter)
  dynamic = list(dynamic_weights.values())
  groups = [
    {"name": name, "params": params, "lr": rate, "weight_decay": decay}
    for name, params, rate, decay in (
      ("decay", decayed, lr, weight_decay),
      ("no_decay", plain, lr, 0.0),
      ("dynamic_weights", dynamic, dynamic_lr, 0.0),
    )
    if params
  ]
  return torch.optim.AdamW(groups, betas=betas, eps=eps)
