"""A run whose state counts: all that the loop asks for, without a model."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
import runs

from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.training.loop import Run, train_loop
from mrd_jax.training.objective import Objective


class Counting(Objective):
  """Notes everything that the loop asks for."""

  def __init__(self, events: list[str], num_steps, every, config):
    self.events = events
    self.config = config
    self.data = {"name": "numbers"}
    self.source, self.order = [], None
    self.num_steps = num_steps
    self.evaluate_every, self.save_every = every

  def open_checkpoints(self, workdir: Path) -> Checkpoints:
    events = self.events

    class Noted(Checkpoints):
      def save(self, step, state, metrics):
        assert int(state.step) == step
        events.append(f"save {step}" + (" with scores" if metrics else ""))
        super().save(step, state, metrics)

      def close(self):
        super().close()
        events.append("all is saved")

    return Noted(
      workdir / "checkpoints", keep_latest=9, keep_best=0, best_metric=""
    )

  def evaluate(self, state, is_last, keep_going):
    keep_going()
    last = " at last" if is_last else ""
    self.events.append(f"evaluate {int(state.step)}{last}")
    return {"val/top1": 0.5}

  def describe(self, step, scores):
    return f"{step} is {scores['val/top1']}"

  def write_results(self, end):
    self.events.append(f"results {end.step, end.scores}")


def counting_run(
  events: list[str] | None = None,
  num_steps: int = 10,
  every: tuple[int, int] = (5, 5),
  profile: str = "",
  wandb: str = "",
  **changes,
) -> Run:
  """A run that notes in `events`; evaluates and saves `every` so many steps."""
  noted: list[str] = [] if events is None else events
  config = runs.pretraining_config(
    "nowhere", profile=profile, log={"every_steps": 2, "wandb": wandb}
  )

  def batches(start: int) -> Iterator:
    for n in range(start, num_steps):
      noted.append(f"batch {n}")
      yield n

  add = jax.jit(lambda step: step + 1)

  def step_fn(state, batch):
    assert int(state.step) == batch
    noted.append(f"step {batch}")
    return dataclasses.replace(state, step=add(state.step)), {"loss": batch}

  state = TrainState(jax.numpy.int32(0), {}, {}, {}, {})
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  run = Run(
    objective=Counting(noted, num_steps, every, config),
    summary="counts",
    init=lambda: state,
    abstract_state=jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state
    ),
    step_fn=step_fn,
    batches=batches,
  )
  return dataclasses.replace(run, **changes)


def interrupt(run: Run, workdir: Path, batch: int) -> None:
  """Trains until the reader fails at a batch."""

  def batches(start: int) -> Iterator:
    yield from range(start, batch)
    raise KeyError

  with pytest.raises(KeyError):
    train_loop(dataclasses.replace(run, batches=batches), workdir)
