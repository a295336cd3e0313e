"""Takes one training step on both sides: terms, gradients, new parameters.

Schedule, clipping and freezing are left out, so that every parameter moves;
the dynamic weights start apart from each other, so that a pair that is
exchanged shows.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch

from mrd_jax.compare import torch_losses, torch_optimizer
from mrd_jax.compare.stages import torch_apply
from mrd_jax.config.pretraining import Config, LossConfig, OptimizerConfig
from mrd_jax.convert import pointbert_modules
from mrd_jax.data.examples import Examples
from mrd_jax.losses.mrd import init_dynamic_weights
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.training.optimizer import make_optimizer
from mrd_jax.training.pretraining import loss_of_examples
from mrd_jax.zoo import openshape

LEARNING_RATE = 1e-3
POINT_NET = "mini-PointNet"
_DYNAMIC_WEIGHTS = (0.3, -0.2)
_TERMS = ("contrast/image", "contrast/text", "intra", "cross", "loss")


class Setting(NamedTuple):
  """What is trained how.

  Attributes:
    loss: The loss.
    optimizer: The optimizer, with a constant learning rate.
    logit_scale: ln(1 / temperature).
  """

  loss: LossConfig
  optimizer: OptimizerConfig
  logit_scale: float


class Step(NamedTuple):
  """One step; trees are {"encoder", "logit_scale", "dynamic_weights"}.

  Attributes:
    terms: Loss terms by name.
    gradients: Of the loss.
    params: After the update.
  """

  terms: dict[str, float]
  gradients: dict[str, Any]
  params: dict[str, Any]


def make_setting(config: Config, logit_scale: float | None) -> Setting:
  """Makes the setting of a run, with its first logit scale in place of None.

  Pairs are not sampled: that is random.
  """
  if logit_scale is None:
    logit_scale = float(np.log(config.logit_scale.init))
  return Setting(
    dataclasses.replace(config.loss, sampled_pairs=0),
    dataclasses.replace(
      config.optimizer,
      # Not the run's: too small a step would show nothing.
      learning_rate=LEARNING_RATE,
      dynamic_learning_rate=LEARNING_RATE,
      final_learning_rate=1.0,
      warmup_epochs=0.0,
      warmup_steps=0,
      clip_norm=0.0,
      frozen=(),
    ),
    logit_scale,
  )


def start_params(setting: Setting, encoder_params: Any) -> dict[str, Any]:
  """Makes what both sides start from, typed as the encoder's parameters."""
  dtype = np.asarray(encoder_params["cls_token"]).dtype
  return {
    "encoder": encoder_params,
    "logit_scale": np.array(setting.logit_scale, dtype),
    "dynamic_weights": {
      name: np.array(_DYNAMIC_WEIGHTS, dtype)
      for name in init_dynamic_weights(setting.loss)
    },
  }


def jax_step(
  setting: Setting, model: PointBERT, variables: Any, examples: Examples
) -> Step:
  """Takes our step."""
  params = start_params(setting, variables["params"])
  gradients, (metrics, _) = jax.device_get(
    _gradients(
      params,
      variables["batch_stats"],
      examples,
      encoder=model,
      loss=setting.loss,
      parts=1,
      mesh=None,
      key=None,
    )
  )
  terms = {name: float(metrics[name]) for name in _TERMS}
  terms |= {k: float(v) for k, v in metrics.items() if k.startswith("relation")}
  updated = jax_update(setting.optimizer, params, gradients)
  return Step(terms, gradients, updated)


_gradients = jax.jit(
  jax.grad(loss_of_examples, has_aux=True),
  static_argnames=("encoder", "loss", "parts", "mesh", "key"),
)


@functools.partial(jax.jit, static_argnums=0)
def jax_update(config: OptimizerConfig, params: Any, gradients: Any) -> Any:
  """Returns the parameters after our optimizer's first step."""
  optimizer = make_optimizer(config, steps_per_epoch=1, num_steps=2)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  return optax.apply_updates(params, updates)


def torch_step(
  setting: Setting,
  model: pointbert_modules.Projected,
  examples: Examples,
  *,
  bfloat16: bool,
) -> Step:
  """Takes PyTorch's step; the model is left as it was."""
  before = {k: v.clone() for k, v in model.state_dict().items()}
  dtype = model.ppat.cls_token.dtype

  def tensor(x: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(x)).to(dtype)

  pairs = init_dynamic_weights(setting.loss)
  logit_scale = tensor(setting.logit_scale).requires_grad_()
  # The matched form's only pair has another name there.
  theirs = {name: "cross_image" if name == "cross" else name for name in pairs}
  dynamic = {
    name: tensor(_DYNAMIC_WEIGHTS).requires_grad_() for name in theirs.values()
  }
  loss, found = torch_losses.mrd_loss(
    torch_apply(model, examples, train=True, bfloat16=bfloat16).cpu(),
    tensor(examples.image),
    tensor(examples.text),
    torch.tensor(np.asarray(examples.has_text)),
    logit_scale,
    dynamic,
    **torch_options(setting.loss),
  )
  model.zero_grad(set_to_none=True)
  loss.backward()
  named = dict(model.named_parameters())

  def as_tree(of: Callable[[Any], torch.Tensor]) -> dict[str, Any]:
    def array(parameter: torch.Tensor) -> np.ndarray:
      return of(parameter).detach().cpu().numpy().copy()

    arrays = {name: array(p) for name, p in named.items()}
    return {
      "encoder": openshape.to_tree(arrays)["params"],
      "logit_scale": array(logit_scale),
      "dynamic_weights": {
        ours: array(dynamic[name]) for ours, name in theirs.items()
      },
    }

  gradients = as_tree(lambda p: p.grad)
  o = setting.optimizer
  torch_optimizer.make_optimizer(
    named | {"logit_scale": logit_scale},
    dynamic,
    lr=o.learning_rate,
    dynamic_lr=o.dynamic_learning_rate,
    weight_decay=o.weight_decay,
    betas=(o.b1, o.b2),
    eps=o.eps,
  ).step()
  params = as_tree(lambda p: p)
  model.zero_grad(set_to_none=True)
  model.load_state_dict(before)
  # PyTorch's "cross/PI-TI" is our "relation/PI-TI".
  terms = {
    re.sub("^(intra|cross)/", "relation/", name): value.item()
    for name, value in found.items()
  }
  return Step(terms, gradients, params)


def torch_options(config: LossConfig) -> dict[str, Any]:
  """Returns a loss as the keyword arguments of `torch_losses.mrd_loss`."""
  return {
    "representation": config.representation,
    "intra": config.intra,
    "intra_teacher": config.intra_teacher,
    "cross": config.cross,
    "cross_form": config.cross_form,
    "weights": "fixed" if config.weighting == "fixed" else "dynamic",
    "intra_scale": config.intra_scale,
    "cross_scale": config.cross_scale,
    "intra_diagonal": config.intra_diagonal,
    "cross_diagonal": config.cross_diagonal,
    "normalise_intra": config.normalize_intra,
    "margin": config.margin,
    "lam": config.relation_weight,
  }


def modules(tree: dict[str, Any]) -> dict[str, Any]:
  """Returns a tree of parameters by module, in the order of computation."""
  encoder = tree["encoder"]
  blocks = sorted(
    (name for name in encoder if name.startswith("block_")),
    key=lambda name: int(name.partition("_")[2]),
  )
  found = {
    POINT_NET: encoder["point_net"],
    "lift": {name: encoder[name] for name in ("lift", "lift_norm")},
    "cls token": encoder["cls_token"],
    **{name.replace("_", " "): encoder[name] for name in blocks},
  }
  if "proj" in encoder:
    found["head"] = encoder["proj"]
  # Together: each of these few numbers may have a gradient near zero.
  found["scale, dynamic weights"] = {
    name: tree[name] for name in ("logit_scale", "dynamic_weights")
  }
  return found
