"""Sets a run up: data, state, step and batches of an objective."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import jax

from mrd_jax.config.pretraining import Config
from mrd_jax.data.batches import train_batches
from mrd_jax.data.examples import Batch
from mrd_jax.io.files import LOCK
from mrd_jax.parallel import sharding
from mrd_jax.parallel.agree import held_together
from mrd_jax.training.loop import Run, one_ahead, train_loop
from mrd_jax.training.objective import Objective
from mrd_jax.training.pretraining import Pretraining
from mrd_jax.training.profile import compile_cache
from mrd_jax.training.state import make_state
from mrd_jax.training.step import jit_train_step


def train(config: Config, workdir: Path, *, lock: bool = True) -> bool:
  """Pre-trains, or goes on pre-training, the run in `workdir`.

  Leaves there what `train_loop` does, and at the end results.json and
  embeddings/.

  Args:
    config: The run's config.
    workdir: The run's folder.
    lock: Whether to hold the folder; a caller that holds it already does not.

  Returns:
    Whether the run has come to its end; False if it was asked to stop.

  Raises:
    BadInput: if the config, the data and the folder do not fit together, or
      another command is at work on the folder.
    NotFinite: if the loss or a gradient is no longer finite.
  """
  with contextlib.ExitStack() as stack:
    if lock:
      stack.enter_context(held_together("--workdir", workdir / LOCK))
    workdir.mkdir(parents=True, exist_ok=True)
    stack.enter_context(compile_cache(config.compile_cache))
    return train_loop(set_up(Pretraining(config)), workdir)


def set_up(objective: Objective) -> Run:
  """Makes the run of an objective, of pre-training or of fine-tuning."""
  config, mesh, order = objective.config, objective.mesh, objective.order

  # The state, and the step that makes the next one of it.
  init, abstract_state = make_state(
    objective.init,
    objective.optimizer,
    *objective.loaded,
    keep_average=objective.ema_decay > 0,
    seed=config.seed,
    mesh=mesh,
  )
  step_fn = jit_train_step(
    abstract_state,
    mesh,
    loss=objective.loss,
    optimizer=objective.optimizer,
    ema_decay=objective.ema_decay,
    max_logit_scale=objective.max_logit_scale,
    alternating=objective.alternating,
  )

  # The batches from a step on: which they are follows from the step alone.
  def batches(start_step: int) -> Iterator[Batch]:
    local = train_batches(
      objective.source,
      objective.meta,
      order,
      start_step=start_step,
      num_steps=objective.num_steps,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      threads=config.data.threads,
      workers=config.data.workers,
      check=objective.check,
    )
    return one_ahead(local, sharding.batch_sharding(mesh))

  return Run(
    objective=objective,
    summary=(
      f"{objective.summary(abstract_state.params)}\n"
      f"{objective.num_steps} steps of {config.train.batch_size} on "
      f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh "
      f"{json.dumps(dict(mesh.shape))}"
    ),
    init=init,
    abstract_state=abstract_state,
    step_fn=step_fn,
    batches=batches,
  )
