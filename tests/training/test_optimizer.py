"""Who is updated how: every leaf's group, schedules, decay, averages."""

import pytest

pytest.importorskip("torch", reason="parity tests need the torch extra")

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from torch_schedule import cosine_with_warmup

from mrd_jax.checkpoint.checksum import by_path
from mrd_jax.config.pretraining import (
  LossConfig,
  OptimizerConfig,
  PointBERTSize,
)
from mrd_jax.errors import BadInput
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.training import optimizer as optimizers
from mrd_jax.training.pretraining import init_params

# No warm-up and no decay of the rate over the few steps of a test.
CONFIG = OptimizerConfig(
  learning_rate=1e-3,
  dynamic_learning_rate=2e-2,
  final_learning_rate=1.0,
  warmup_epochs=0.0,
  warmup_steps=0,
  weight_decay=0.05,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  clip_norm=0.0,
  ema_decay=0.0,
  frozen=(),
)


def model_params():
  """Shapes of all parameters: a small encoder, scale and dynamic weights."""
  size = PointBERTSize(64, 2, 1, 8, 8, groups=2, radius=0.4, group_size=2)
  encoder = PointBERT(size, embed_dim=4)
  return jax.eval_shape(
    lambda key: init_params(encoder, LossConfig(), 14.28, key)[0],
    jax.random.key(0),
  )


DYNAMIC = {
  "dynamic_weights/cross_image",
  "dynamic_weights/cross_text",
  "dynamic_weights/intra",
}


def test_every_parameter_has_its_group():
  labels = by_path(optimizers.group_labels(model_params()))
  others = labels.keys() - DYNAMIC
  assert "logit_scale" in others and len(others) > 40
  assert labels == dict.fromkeys(DYNAMIC, "dynamic_weights") | dict.fromkeys(
    others, "encoder"
  )
  frozen = by_path(
    optimizers.group_labels(
      model_params(), (r"encoder/point_net/.*", r"logit_scale")
    )
  )
  point_net = {x for x in others if x.startswith("encoder/point_net/")}
  assert len(point_net) == 12
  assert frozen == labels | dict.fromkeys(point_net | {"logit_scale"}, "frozen")


@pytest.mark.parametrize("odd", ["decoder", "logit_scale_2", "encoders"])
def test_a_parameter_without_a_group_is_named(odd):
  params = {"encoder": {"a": 1}, odd: {"w": 1}}
  with pytest.raises(BadInput, match=f"'{odd}/w'.*GROUP_RULES"):
    optimizers.group_labels(params)


# A pattern is of the whole name, not of a part of it.
@pytest.mark.parametrize(
  "pattern", ["encoder/pointnet/.*", "point_net/.*", "a"]
)
def test_a_frozen_pattern_that_matches_nothing_is_named(pattern):
  with pytest.raises(BadInput, match=r"optimizer\.frozen.*" + pattern[:6]):
    optimizers.group_labels(model_params(), ("encoder/lift/.*", pattern))


def test_decay_is_on_weight_matrices_alone():
  params = by_path(model_params())
  mask = by_path(optimizers.decay_mask(model_params()))
  matrices = {
    name
    for name, leaf in params.items()
    if leaf.ndim > 1 and name != "encoder/cls_token"
  }
  assert {name for name, decays in mask.items() if decays} == matrices
  assert len(matrices) == 3 + 2 * 4 + 2  # point_net, blocks, lift and proj
  assert mask.keys() == params.keys()


def schedule_of(peak=1e-3, num_steps=60, **changes):
  config = dataclasses.replace(CONFIG, final_learning_rate=0.0)
  config = dataclasses.replace(config, **changes)
  return optimizers.cosine_schedule(
    peak, config, steps_per_epoch=10, num_steps=num_steps
  )


@pytest.mark.parametrize(
  ("changes", "warmup_steps"),
  [
    ({}, 0),
    ({"warmup_steps": 7}, 7),
    ({"warmup_epochs": 1.5}, 15),
    ({"warmup_epochs": 0.26}, 3),
    ({"warmup_steps": 7, "final_learning_rate": 0.1}, 7),
    ({"warmup_steps": 59}, 59),
  ],
)
def test_the_schedule_is_the_twins(changes, warmup_steps):
  schedule = schedule_of(**changes)
  steps = np.arange(70)  # and it stays where it ends
  expected = [
    cosine_with_warmup(
      int(step),
      peak=1e-3,
      warmup_steps=warmup_steps,
      total_steps=60,
      floor=1e-3 * changes.get("final_learning_rate", 0),
    )
    for step in steps
  ]
  actual = jax.vmap(schedule)(steps)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-9)
  assert actual[warmup_steps] == pytest.approx(1e-3)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"warmup_epochs": 1.0, "warmup_steps": 10}, "both set"),
    ({"warmup_steps": 60}, "60 steps of warm-up.* 60"),
    ({"warmup_epochs": 6.1}, "61 steps of warm-up.* 60"),
  ],
)
def test_a_warmup_that_cannot_be_is_named(changes, words):
  with pytest.raises(BadInput, match=rf"optimizer\.warmup_epochs.*{words}"):
    schedule_of(**changes)


def small_params():
  """One leaf of every kind; with gradients to match."""
  rng = np.random.default_rng(0)

  def tree(scale):
    return {
      "encoder": {
        "point_net": {"kernel": scale * rng.normal(size=(3, 2))},
        "proj": {
          "kernel": scale * rng.normal(size=(2, 2)),
          "bias": scale * rng.normal(size=2),
        },
      },
      "logit_scale": scale * rng.normal(),
      "dynamic_weights": {"intra": scale * rng.normal(size=2)},
    }

  def as_float32(x):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x)

  return as_float32(tree(1.0)), [as_float32(tree(0.1)) for _ in range(4)]


def run(config, *, steps=3, num_steps=10):
  """Parameters before and after every step, by name."""
  optimizer = optimizers.make_optimizer(
    config, steps_per_epoch=10, num_steps=num_steps
  )
  params, gradients = small_params()
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, gradient):
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  history = [params]
  for gradient in gradients[:steps]:
    params, state = step(params, state, gradient)
    history.append(params)
  return [
    {name: np.asarray(leaf) for name, leaf in by_path(params).items()}
    for params in history
  ]


def adamw(name, steps, *, rates, clip=0.0):
  """AdamW (Loshchilov and Hutter, Algorithm 2) in float64.

  Args:
    name: The parameter.
    steps: Which of the gradients it is given, in order.
    rates: The learning rate of each.
    clip: Largest norm of the group that `name` is in.
  """
  params, gradients = small_params()
  p = np.asarray(by_path(params)[name], np.float64)
  decay = 0.05 if name.endswith("kernel") else 0.0
  m = v = np.zeros_like(p)
  for t, (step, rate) in enumerate(zip(steps, rates, strict=True), start=1):
    by = {
      k: np.asarray(x, np.float64) for k, x in by_path(gradients[step]).items()
    }
    group = [
      x for k, x in by.items() if (k == DYNAMIC_NAME) == (name == DYNAMIC_NAME)
    ]
    norm = np.sqrt(sum((x**2).sum() for x in group))
    g = by[name] * (min(1, clip / norm) if clip else 1)
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    p = p - rate * (direction + decay * p)
  return p


ENCODER_NAMES = (
  "encoder/point_net/kernel",
  "encoder/proj/kernel",
  "encoder/proj/bias",
  "logit_scale",
)
DYNAMIC_NAME = "dynamic_weights/intra"
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


@pytest.mark.parametrize("clips", [False, True])
def test_three_steps_are_adamw_with_a_rate_and_a_norm_for_each_group(clips):
  clip = 0.0
  if clips:  # so that some are cut and some are not
    norms = [float(optax.tree.norm(g)) for g in small_params()[1][:3]]
    clip = float(np.median(norms))
    assert min(norms) < clip < max(norms)
  last = run(dataclasses.replace(CONFIG, clip_norm=clip))[3]
  for name in (*ENCODER_NAMES, DYNAMIC_NAME):
    rates = [2e-2 if name == DYNAMIC_NAME else 1e-3] * 3
    expected = adamw(name, range(3), rates=rates, clip=clip)
    np.testing.assert_allclose(last[name], expected, err_msg=name, **CLOSE)


def test_nothing_moves_at_the_first_step_of_a_warmup():
  history = run(dataclasses.replace(CONFIG, warmup_steps=2), steps=2)
  for name, before in history[0].items():
    np.testing.assert_array_equal(history[1][name], before)
    assert (history[2][name] != before).all()


def test_frozen_parameters_stay_bitwise_what_they_are():
  history = run(dataclasses.replace(CONFIG, frozen=("encoder/point_net/.*",)))
  frozen = "encoder/point_net/kernel"
  for after in history[1:]:
    np.testing.assert_array_equal(after[frozen], history[0][frozen])
  # The others go on as if nothing were frozen.
  free = run(CONFIG)[3]
  for name, value in history[3].items():
    if name != frozen:
      np.testing.assert_array_equal(value, free[name])


def test_the_average_follows_the_parameters():
  average = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(4.0)}
  params = {"a": jnp.array([3.0, 2.0]), "b": jnp.array(0.0)}
  after = optimizers.update_average(average, params, 0.75)
  np.testing.assert_allclose(after["a"], [1.5, 2.0])
  np.testing.assert_allclose(after["b"], 3.0)
  for _ in range(60):
    average = optimizers.update_average(average, params, 0.75)
  np.testing.assert_allclose(average["a"], params["a"], atol=1e-6)


@pytest.mark.parametrize(
  ("value", "largest", "expected"),
  [
    (4.0, 100.0, 4.0),
    (5.0, 100.0, np.log(100.0)),
    (-1.0, 100.0, -1.0),
    (5.0, 0.0, 5.0),
  ],
)
def test_the_logit_scale_stays_below_its_largest(value, largest, expected):
  other = {"w": jnp.full(2, 9.0)}
  params = {"encoder": other, "logit_scale": jnp.float32(value)}
  clamped = optimizers.clamp_logit_scale(params, largest)
  assert float(clamped["logit_scale"]) == pytest.approx(expected, rel=1e-6)
  assert clamped["encoder"] is other
  assert float(params["logit_scale"]) == value
