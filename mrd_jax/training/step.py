"""Takes one training step of any objective: gradient, update, average."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.data.examples import Batch
from mrd_jax.parallel import sharding
from mrd_jax.training.optimizer import clamp_logit_scale, update_average


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  loss: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  ema_decay: float,
  max_logit_scale: float,
  alternating: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Makes one step on a global batch.

  Args:
    state: What the step before left.
    batch: Encoded records.
    loss: As `Objective.loss`.
    optimizer: The optimizer.
    ema_decay: As in `Objective`; it matters where the state has an average.
    max_logit_scale: As in `Objective`.
    alternating: As in `Objective`.

  Returns:
    The next state, and the metrics of `loss` with "grad_norm".
  """
  gradient_at = functools.partial(
    jax.grad(loss, has_aux=True),
    batch_stats=state.batch_stats,
    batch=batch,
    step=state.step,
  )
  gradients, (metrics, batch_stats) = gradient_at(state.params)
  if alternating:
    # Of this first pass the weights alone are moved: what else it computes is
    # used by nothing, and the compiler leaves it out.
    updates, _ = optimizer.update(gradients, state.opt_state, state.params)
    moved: Any = optax.apply_updates(state.params, updates)
    own = {"dynamic_weights": gradients["dynamic_weights"]}
    gradients, (metrics, batch_stats) = gradient_at(
      state.params | {"dynamic_weights": moved["dynamic_weights"]}
    )
    gradients = gradients | own
  with jax.named_scope("optimizer"):
    updates, opt_state = optimizer.update(
      gradients, state.opt_state, state.params
    )
    params: Any = optax.apply_updates(state.params, updates)
    params = clamp_logit_scale(params, max_logit_scale)
    average = state.average and update_average(state.average, params, ema_decay)
    metrics = metrics | {"grad_norm": optax.tree.norm(gradients)}
  state = TrainState(state.step + 1, params, batch_stats, opt_state, average)
  return state, metrics


def jit_train_step(abstract_state: TrainState, mesh: Mesh, **arguments: Any):
  """Compiles `train_step`, laid out over the mesh; the state is donated.

  Args:
    abstract_state: Shapes and shardings of the state.
    mesh: The devices.
    **arguments: Those of `train_step` but the state and the batch.

  Returns:
    The jitted function (state, batch) -> (state, metrics).
  """
  state_sharding = sharding.shardings_of(abstract_state)
  return jax.jit(
    functools.partial(train_step, **arguments),
    in_shardings=(state_sharding, sharding.batch_sharding(mesh)),
    out_shardings=(state_sharding, sharding.replicated(mesh)),
    donate_argnums=0,
  )
