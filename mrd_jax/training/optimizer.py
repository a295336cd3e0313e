"""Updates parameters: groups by path, schedules, decay mask, averages.

Every parameter belongs to exactly one group:

  encoder          AdamW; the logit scale is in it, too
  dynamic_weights  Adam with a learning rate of its own and no decay
  frozen           not updated

by its path, joined with "/": "encoder/block_0/qkv/kernel".
"""

import functools
import re

import jax
import jax.numpy as jnp
import optax

from mrd_jax.checkpoint.checksum import by_path
from mrd_jax.config.pretraining import OptimizerConfig
from mrd_jax.config.shared import AdamWConfig
from mrd_jax.errors import BadInput

GROUP_RULES = (
  (r"encoder/.*", "encoder"),
  (r"logit_scale", "encoder"),
  (r"dynamic_weights/.*", "dynamic_weights"),
)


def group_labels(params, frozen: tuple[str, ...] = ()):
  """Finds the group of every parameter, a tree of strings.

  Raises:
    BadInput: if a parameter matches no rule, or a frozen pattern no
      parameter.
  """
  rules = tuple((pattern, "frozen") for pattern in frozen) + GROUP_RULES
  names = list(by_path(params))

  def label(name: str) -> str:
    for pattern, group in rules:
      if re.fullmatch(pattern, name):
        return group
    raise BadInput(
      f"parameter {name!r} belongs to no optimizer group; add a rule to "
      "GROUP_RULES in mrd_jax/training/optimizer.py"
    )

  labels = [label(name) for name in names]
  for pattern in frozen:
    if not any(re.fullmatch(pattern, name) for name in names):
      raise BadInput(
        f"optimizer.frozen holds {pattern!r}, which matches no parameter; "
        f"parameters are named like {names[0]!r}"
      )
  return jax.tree.unflatten(jax.tree.structure(params), labels)


def decay_mask(params):
  """Marks what is decayed, the weight matrices: "kernel", in CLIP "weight"."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in ("kernel", "weight"), params
  )


def cosine_schedule(
  peak: float, config: AdamWConfig, *, steps_per_epoch: int, num_steps: int
) -> optax.Schedule:
  """Makes the rate: linear warm-up from zero to `peak`, then half a cosine.

  Raises:
    BadInput: if both warm-up fields are set, or warm-up fills the run.
  """
  if config.warmup_epochs and config.warmup_steps:
    raise BadInput(
      "optimizer.warmup_epochs and optimizer.warmup_steps are both set; set "
      "one of them to 0"
    )
  warmup = config.warmup_steps or round(config.warmup_epochs * steps_per_epoch)
  if warmup >= num_steps:
    raise BadInput(
      f"optimizer.warmup_epochs / warmup_steps give {warmup} steps of warm-up "
      f"but the run has {num_steps}; shorten the warm-up"
    )
  return optax.warmup_cosine_decay_schedule(
    0.0, peak, warmup, num_steps, end_value=peak * config.final_learning_rate
  )


def adamw(
  config: AdamWConfig,
  peak: float,
  weight_decay: float,
  *,
  steps_per_epoch: int,
  num_steps: int,
) -> optax.GradientTransformation:
  """Makes AdamW for one group of parameters.

  The norm that is clipped is the group's: gradients that move nothing must not
  shrink others.

  Args:
    config: Its moments, the norm, and the warm-up.
    peak: Largest learning rate.
    weight_decay: On weight matrices.
    steps_per_epoch: For a warm-up given in epochs.
    num_steps: Length of the run.
  """
  schedule = cosine_schedule(
    peak, config, steps_per_epoch=steps_per_epoch, num_steps=num_steps
  )
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm)
    if config.clip_norm
    else optax.identity(),
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
    optax.add_decayed_weights(weight_decay, mask=decay_mask),
    optax.scale_by_learning_rate(schedule),
  )


def make_optimizer(
  config: OptimizerConfig, *, steps_per_epoch: int, num_steps: int
) -> optax.GradientTransformation:
  """Makes pre-training's optimizer, of {encoder, logit_scale, dynamic_weights}.

  Args:
    config: Its configuration.
    steps_per_epoch: For a warm-up given in epochs.
    num_steps: Length of the run.
  """
  group = functools.partial(
    adamw, config, steps_per_epoch=steps_per_epoch, num_steps=num_steps
  )
  return optax.multi_transform(
    {
      "encoder": group(config.learning_rate, config.weight_decay),
      "dynamic_weights": group(config.dynamic_learning_rate, 0.0),
      "frozen": optax.set_to_zero(),
    },
    lambda params: group_labels(params, config.frozen),
  )


def update_average(average, params, decay: float):
  """Moves the average of the parameters by one step."""
  return jax.tree.map(
    lambda a, p: a + (1 - decay) * (p - a).astype(a.dtype), average, params
  )


def clamp_logit_scale(params, largest: float):
  """Keeps the contrastive scale at or below `largest`; 0 does not clamp.

  Done on the parameter after the update, as CLIP does: a clamp inside the
  loss would leave a parameter beyond it without gradient.
  """
  if not largest:
    return params
  clamped = jnp.minimum(params["logit_scale"], jnp.log(largest))
  return params | {"logit_scale": clamped}
