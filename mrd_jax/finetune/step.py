"""The state of a fine-tuning run, and one step of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.finetuning import Config
from mrd_jax.config.pretraining import AdamWConfig
from mrd_jax.data.examples import Batch
from mrd_jax.finetune.transforms import Drawer
from mrd_jax.models.classifier import Classifier
from mrd_jax.parallel import sharding
from mrd_jax.training.optimizer import adamw_direction, cosine_schedule


def make_optimizer(
  config: AdamWConfig, *, steps_per_epoch: int, num_steps: int
) -> optax.GradientTransformation:
  """AdamW over all parameters; the norm that is clipped is that of all."""
  schedule = cosine_schedule(
    config.learning_rate,
    config,
    steps_per_epoch=steps_per_epoch,
    num_steps=num_steps,
  )
  return optax.chain(
    adamw_direction(config, config.weight_decay),
    optax.scale_by_learning_rate(schedule),
  )


def make_state(
  model: Classifier,
  optimizer: optax.GradientTransformation,
  *,
  encoder_variables: Any,
  seed: int,
  mesh: Mesh,
) -> tuple[Callable[[], TrainState], TrainState]:
  """How a state starts, and what it looks like.

  Args:
    model: The classifier.
    optimizer: Its optimizer.
    encoder_variables: {"params", "batch_stats"} of its encoder; None to draw
      them, too.
    seed: Of what is drawn.
    mesh: The devices.

  Returns:
    As `train_state.make_state`; `params` is {"encoder", "hidden", "classes"}.
  """
  # One cloud is enough to learn the shapes; a mesh could not share it.
  alone = model.clone(encoder=model.encoder.clone(batch_sharding=None))

  def init(key: jax.Array, encoder_variables: Any) -> TrainState:
    variables: Any = alone.init(
      key, jnp.zeros((1, 2, 6)), jnp.ones(1, jnp.int32), train=False
    )
    if encoder_variables is not None:
      variables = {
        kind: values | {"encoder": encoder_variables[kind]}
        for kind, values in variables.items()
      }
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables["params"],
      batch_stats=variables["batch_stats"],
      opt_state=optimizer.init(variables["params"]),
      average={},
    )

  key = jax.random.key(seed)
  abstract = sharding.with_state_sharding(
    mesh, jax.eval_shape(init, key, encoder_variables)
  )
  jitted = jax.jit(init, out_shardings=sharding.shardings_of(abstract))
  return lambda: jitted(key, encoder_variables), abstract


def cross_entropy(
  logits_BC: jax.Array, label_B: jax.Array, smoothing: float
) -> jax.Array:
  """Mean cross entropy with smoothed targets (arXiv 1512.00567, section 7).

  The target is `1 - smoothing` on the label plus `smoothing / C` on every
  class, as in PyTorch and optax.  Point-BERT's own form spreads `smoothing`
  over the other classes alone.
  """
  target_BC = jax.nn.one_hot(label_B, logits_BC.shape[-1])
  target_BC = optax.smooth_labels(target_BC, smoothing)
  return optax.softmax_cross_entropy(logits_BC, target_BC).mean()


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  model: Classifier,
  drawer: Drawer,
  optimizer: optax.GradientTransformation,
  config: Config,
  mesh: Mesh,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step on a global batch: draw the clouds, classify, update.

  Returns:
    The next state and "loss", "accuracy" (of the training clouds, with
    dropout), "grad_norm".
  """
  clouds = drawer.train(batch, seed=config.seed, step=state.step)
  # A stream of its own, beside those of the samples.
  key = jax.random.fold_in(jax.random.key(config.seed + 1), state.step)
  dropout_key, drop_path_key = jax.random.split(key)

  def loss_fn(params):
    logits_BC, updates = model.apply(
      {
        "params": sharding.gathered(params, mesh),
        "batch_stats": state.batch_stats,
      },
      *clouds,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": dropout_key, "drop_path": drop_path_key},
    )
    loss = cross_entropy(logits_BC, batch.label, config.train.label_smoothing)
    accuracy = (logits_BC.argmax(axis=-1) == batch.label).mean()
    return loss, (accuracy, updates["batch_stats"])

  (loss, (accuracy, batch_stats)), gradients = jax.value_and_grad(
    loss_fn, has_aux=True
  )(state.params)
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  params: Any = optax.apply_updates(state.params, updates)
  metrics = {
    "loss": loss,
    "accuracy": accuracy,
    "grad_norm": optax.tree.norm(gradients),
  }
  return TrainState(state.step + 1, params, batch_stats, opt_state, {}), metrics


def jit_train_step(
  model: Classifier,
  drawer: Drawer,
  optimizer: optax.GradientTransformation,
  config: Config,
  abstract_state: TrainState,
  mesh: Mesh,
):
  """`train_step`, laid out over the mesh; the state is donated.

  Returns:
    The jitted function (state, batch) -> (state, metrics).
  """
  state_sharding = sharding.shardings_of(abstract_state)
  return jax.jit(
    lambda state, batch: train_step(
      state,
      batch,
      model=model,
      drawer=drawer,
      optimizer=optimizer,
      config=config,
      mesh=mesh,
    ),
    in_shardings=(state_sharding, sharding.batch_sharding(mesh)),
    out_shardings=(state_sharding, sharding.replicated(mesh)),
    donate_argnums=0,
  )
