"""What is frozen: no gradient, no part of the norm, no backward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_batches
from runs import pretraining_config

from mrd_jax.checkpoint.checksum import by_path
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.training.optimizer import make_optimizer
from mrd_jax.training.pretraining import batch_loss, init_params
from mrd_jax.training.step import train_step

SIZE = PointBERTSize(
  64, 1, 1, 64, sa_dim=16, groups=4, radius=0.5, group_size=4
)
BATCH = random_batches.make_batch(4)


@pytest.mark.slow
def test_the_gradients_norm_is_that_of_what_is_trained():
  encoder = PointBERT(SIZE, embed_dim=4)

  def objective(frozen: tuple[str, ...]):
    config = pretraining_config(
      "nowhere",
      augment={"num_points": 16},
      optimizer={"frozen": frozen, "warmup_steps": 0},
    )
    loss = functools.partial(
      batch_loss, encoder=encoder, config=config, mesh=None
    )
    return config, loss

  config, frozen_loss = objective(("encoder/(?!proj/).*", "logit_scale"))
  _, loss = objective(())
  params, batch_stats = init_params(
    encoder, config.loss, 14.28, jax.random.key(0)
  )
  optimizer = make_optimizer(config.optimizer, steps_per_epoch=5, num_steps=10)
  state = TrainState(
    jnp.int32(0), params, batch_stats, optimizer.init(params), {}
  )
  step = jax.jit(
    functools.partial(
      train_step,
      loss=frozen_loss,
      optimizer=optimizer,
      ema_decay=0.0,
      max_logit_scale=0.0,
    )
  )
  gradient = jax.jit(jax.grad(loss, has_aux=True))
  gradient = gradient.lower(params, batch_stats, BATCH, jnp.int32(0)).compile()
  step = step.lower(state, BATCH).compile()
  gradients, _ = gradient(params, batch_stats, BATCH, jnp.int32(0))
  (after, metrics) = step(state, BATCH)

  trained = {
    name: x
    for name, x in by_path(gradients).items()
    if name.startswith(("encoder/proj/", "dynamic_weights/"))
  }
  expected = float(optax.tree.norm(trained))
  assert expected < 0.9 * float(optax.tree.norm(gradients))
  np.testing.assert_allclose(metrics["grad_norm"], expected, rtol=1e-5)
  moved = by_path(
    jax.tree.map(lambda a, b: (a != b).any(), params, after.params)
  )
  assert {name for name, x in moved.items() if x} == trained.keys()
  # XLA drops their backward pass.
  flops = [x.cost_analysis()["flops"] for x in (step, gradient)]
  assert flops[0] < 0.7 * flops[1]
