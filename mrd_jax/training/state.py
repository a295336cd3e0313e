"""What a training step carries on, and how it starts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses.mrd import init_dynamic_weights
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding


def eval_variables(state: TrainState):
  """The encoder's variables to evaluate: averaged where an average is kept."""
  params = state.average or state.params
  return {"params": params["encoder"], "batch_stats": state.batch_stats}


def init_params(
  encoder: PointBERT, loss: LossConfig, logit_scale: float, key: jax.Array
):
  """Fresh parameters and BatchNorm statistics.

  Args:
    encoder: The encoder.
    loss: Decides which dynamic weights exist.
    logit_scale: Initial contrastive scale.
    key: Randomness of the encoder's initialisation.
  """
  # One cloud is enough to learn the shapes; a mesh could not share it.
  variables = encoder.clone(batch_sharding=None).init(
    key, jnp.zeros((1, 2, 6)), jnp.ones(1, jnp.int32), train=False
  )
  params = {
    "encoder": variables["params"],
    "logit_scale": jnp.log(jnp.float32(logit_scale)),
    "dynamic_weights": init_dynamic_weights(loss),
  }
  return params, variables["batch_stats"]


def make_state(
  encoder: PointBERT,
  loss: LossConfig,
  logit_scale: float,
  optimizer: optax.GradientTransformation,
  *,
  keep_average: bool,
  seed: int,
  mesh: Mesh,
) -> tuple[Callable[[], TrainState], TrainState]:
  """How a state starts, and what it looks like.

  Returns:
    A function that makes the first state, in place on the devices that hold
    it, and the state's shapes: a `TrainState` of `jax.ShapeDtypeStruct` with
    shardings, for which a checkpoint can be read without making the first.
  """

  def init(key: jax.Array) -> TrainState:
    params, batch_stats = init_params(encoder, loss, logit_scale, key)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=batch_stats,
      opt_state=optimizer.init(params),
      average=jax.tree.map(jnp.copy, params) if keep_average else {},
    )

  key = jax.random.key(seed)
  abstract = sharding.with_state_sharding(mesh, jax.eval_shape(init, key))
  jitted = jax.jit(init, out_shardings=sharding.shardings_of(abstract))
  return lambda: jitted(key), abstract
