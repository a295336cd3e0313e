"""One training step: input stage, encoder, losses, gradients, update."""

from typing import Any

import jax
import optax
from jax.sharding import Mesh

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.pretraining import Config, LossConfig
from mrd_jax.data.examples import Batch, Examples, train_examples
from mrd_jax.losses.mrd import Embeddings, mrd_loss
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding
from mrd_jax.training.accumulate import embed_in_parts
from mrd_jax.training.optimizer import clamp_logit_scale, update_average


def loss_gradients(
  params: dict[str, Any],
  batch_stats: Any,
  examples: Examples,
  *,
  encoder: PointBERT,
  loss_config: LossConfig,
  parts: int,
  mesh: Mesh | None,
  key: jax.Array | None,
) -> tuple[dict[str, Any], dict[str, jax.Array], Any]:
  """Gradients of the total loss of a global batch.

  Args:
    params: {"encoder", "logit_scale", "dynamic_weights"}.
    batch_stats: The encoder's running statistics.
    examples: What the input stage made.
    encoder: The encoder.
    loss_config: The loss.
    parts: How many parts the encoder takes the batch in (`training/accumulate.py`).
    mesh: The devices that share the batch; None: it is on one.
    key: Randomness of the loss, see `losses.mrd_loss`.

  Returns:
    Gradients like `params`, the metrics of `losses.mrd_loss`, and the new
    running statistics.
  """

  def loss_fn(params):
    params = sharding.gathered(params, mesh)
    variables = {"params": params["encoder"], "batch_stats": batch_stats}
    clouds = (examples.points, examples.num_points)
    if parts > 1:
      point, running = embed_in_parts(encoder, variables, *clouds, parts)
    else:
      point, updates = encoder.apply(
        variables, *clouds, train=True, mutable=["batch_stats"]
      )
      running = updates["batch_stats"]
    loss, metrics = mrd_loss(
      loss_config,
      Embeddings(point, examples.image, examples.text, examples.has_text),
      params["logit_scale"],
      params["dynamic_weights"],
      key,
      mesh=mesh,
    )
    return loss, (metrics, running)

  gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(params)
  return gradients, metrics, batch_stats


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  encoder: PointBERT,
  optimizer: optax.GradientTransformation,
  config: Config,
  mesh: Mesh | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step on a global batch: input stage, encoder, losses, update.

  Returns:
    The next state and the metrics of `losses.mrd_loss`, with "grad_norm".
  """
  examples = train_examples(
    batch, config.augment, seed=config.seed, step=state.step
  )
  gradients, metrics, batch_stats = loss_gradients(
    state.params,
    state.batch_stats,
    examples,
    encoder=encoder,
    loss_config=config.loss,
    parts=config.train.accumulate,
    mesh=mesh,
    # A stream of its own, beside those of the samples.
    key=jax.random.fold_in(jax.random.key(config.seed + 1), state.step),
  )
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  params: Any = optax.apply_updates(state.params, updates)
  params = clamp_logit_scale(params, config.logit_scale.max)
  average = state.average and update_average(
    state.average, params, config.optimizer.ema_decay
  )
  metrics["grad_norm"] = optax.tree.norm(gradients)
  state = TrainState(state.step + 1, params, batch_stats, opt_state, average)
  return state, metrics


def jit_train_step(
  encoder: PointBERT,
  optimizer: optax.GradientTransformation,
  config: Config,
  abstract_state: TrainState,
  mesh: Mesh,
):
  """`train_step` for one model, laid out over the mesh; the state is donated.

  Returns:
    The jitted function (state, batch) -> (state, metrics).
  """
  state_sharding = sharding.shardings_of(abstract_state)
  return jax.jit(
    lambda state, batch: train_step(
      state,
      batch,
      encoder=encoder,
      optimizer=optimizer,
      config=config,
      mesh=mesh,
    ),
    in_shardings=(state_sharding, sharding.batch_sharding(mesh)),
    out_shardings=(state_sharding, sharding.replicated(mesh)),
    donate_argnums=0,
  )
