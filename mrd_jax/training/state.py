"""Makes the first state of a run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.keys import named
from mrd_jax.parallel import sharding


def make_state(
  init: Callable[..., tuple[Any, Any]],
  optimizer: optax.GradientTransformation,
  *loaded: Any,
  keep_average: bool,
  seed: int,
  mesh: Mesh,
) -> tuple[Callable[[], TrainState], TrainState]:
  """Prepares the first state.

  Args:
    init: (key, *loaded) -> parameters and BatchNorm statistics.
    optimizer: The optimizer.
    *loaded: Weights that `init` takes.  They are arguments of the compiled
      program: what it closes over, it holds a second time.
    keep_average: Whether a moving average of the parameters is kept.
    seed: Of the randomness.
    mesh: The devices.

  Returns:
    A function that makes the first state, in place on the devices that hold
    it, and the state's shapes: a `TrainState` of `jax.ShapeDtypeStruct` with
    shardings, for which a checkpoint can be read without making the first.
  """

  def first(key: jax.Array, *loaded: Any) -> TrainState:
    params, batch_stats = init(key, *loaded)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=batch_stats,
      opt_state=optimizer.init(params),
      average=jax.tree.map(jnp.copy, params) if keep_average else {},
    )

  key = named(jax.random.key(seed), "init")
  abstract = sharding.with_state_sharding(
    mesh, jax.eval_shape(first, key, *loaded)
  )
  jitted = jax.jit(first, out_shardings=sharding.shardings_of(abstract))
  return lambda: jitted(key, *loaded), abstract
