"""Runs the training loop: evaluate -> save -> next batch -> step.

What is trained is the objective's; that a run can be killed, stopped and
repeated is here.
"""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.data.batches import examine_batch
from mrd_jax.data.examples import Batch
from mrd_jax.errors import RunFailed
from mrd_jax.io.files import write_json
from mrd_jax.parallel import sharding
from mrd_jax.parallel.agree import first_says
from mrd_jax.parallel.stop import Preempted, Preemption, end_workers
from mrd_jax.training.clock import Clock, memory
from mrd_jax.training.log import MetricsWriter, check_wandb
from mrd_jax.training.objective import End, Objective
from mrd_jax.training.profile import Profile
from mrd_jax.training.resume import check_resumable, check_same_data
from mrd_jax.training.watchdog import watchdog

NAMED = 8  # shapes of a bad batch in the message; its file has all


class NotFinite(RunFailed):
  """A loss or gradient became NaN or infinite; nothing of it was saved."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What the loop works with; `training/set_up.py` makes it.

  Attributes:
    objective: What is trained.
    summary: What is printed first.
    init: Makes the first state.
    abstract_state: Its shapes and shardings.
    step_fn: (state, global batch) -> (state, metrics); the state is donated.
    batches: The global batches from a step on, to the end of the run.
  """

  objective: Objective
  summary: str
  init: Callable[[], TrainState]
  abstract_state: TrainState
  step_fn: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]
  batches: Callable[[int], Iterator[Batch]]


def train_loop(run: Run, workdir: Path) -> bool:
  """Trains, or goes on training, the run in `workdir`.

  Leaves there: config.json, data.json, checkpoints/, metrics.jsonl,
  tensorboard/, and in the end what the objective writes, of which results.json
  is one.

  Returns:
    Whether the run has come to its end; False if it was asked to stop.

  Raises:
    BadInput: if the folder holds a run under another config or on other data.
    NotFinite: if the loss or a gradient is no longer finite.
    KeyboardInterrupt: after a Ctrl-C, when all is saved.
  """
  objective, last = run.objective, run.objective.num_steps
  config = objective.config
  check_wandb(config.log.wandb)
  clock = Clock()
  with (
    contextlib.closing(Preemption()) as preemption,
    watchdog(clock, config.log.stall_seconds),
    contextlib.ExitStack() as closing,
  ):
    checkpoints = objective.open_checkpoints(workdir)
    closing.enter_context(contextlib.closing(checkpoints))
    closing.callback(clock.enter, "save")  # closing waits for the last one
    start, remarks = 0, []
    if checkpoints.latest_step() is None:
      state = run.init()
    else:
      check_resumable(config, workdir / "config.json")
      check_same_data(objective.data, workdir / "data.json")
      restored = checkpoints.restore_newest(run.abstract_state)
      start, state, remarks = restored.step, restored.state, restored.remarks
    profile = Profile(config.profile, workdir / "profile", last)
    closing.enter_context(contextlib.closing(profile))
    if jax.process_index() == 0:
      write_json(workdir / "config.json", dataclasses.asdict(config))
      write_json(workdir / "data.json", objective.data)
    # The step we start from is evaluated again if a stop kept its scores from
    # being recorded.
    has_results = first_says((workdir / "results.json").exists())
    evaluate_start = not checkpoints.has_scores(start) or (
      start == last and not has_results
    )
    writer = MetricsWriter(
      workdir,
      config,
      num_steps=last,
      start_step=start,
      drop_start_evaluation=evaluate_start,
    )
    closing.enter_context(contextlib.closing(writer))
    writer.say(*run.summary.split("\n"), *remarks)
    if start:
      writer.say(f"resumed from the checkpoint of step {start}")

    def due(every: int) -> bool:
      return step == last or step % every == 0

    next_batch = clock.stage("input")(run.batches(start).__next__)
    pending: dict[int, dict] = {}  # the newest step's metrics, on the device

    def log_pending() -> None:
      for done, metrics in pending.items():
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        check_finite(objective, workdir, done, values)
        if done == last or done % config.log.every_steps == 0:
          writer.train(done, values | clock.lap() | memory())
      pending.clear()

    def keep_going() -> None:
      clock.enter("evaluation")  # the next batch of it
      preemption.poll()

    step = saved = clock.step = start
    clock.enter("step")
    clock.lap()  # what was before the first step is no step's
    stopped, scores = False, None
    try:
      # Evaluate, save, next batch, step: a checkpoint of step s is what the
      # s-th step left, with its scores, before data of the next is read.
      while True:
        scores = None
        if due(objective.evaluate_every) and (step > start or evaluate_start):
          log_pending()
          with clock.stage("evaluation"):
            scores = objective.evaluate(state, step == last, keep_going)
          writer.evaluation(step, scores, objective.describe(step, scores))
        if scores and 0 < step == saved and not checkpoints.has_scores(step):
          checkpoints.add_scores(step, scores)  # a stop came before them
        if step > saved and (scores or due(objective.save_every)):
          log_pending()
          with clock.stage("save"):
            checkpoints.save(step, state, scores)
          saved = step
        if step == last:
          break
        preemption.poll()
        checkpoints.check()
        with (
          profile.step(step, state),
          clock.stage("compile" if step == start else "step"),
        ):
          batch = preemption.wait(next_batch)
          state, metrics = run.step_fn(state, batch)
        log_pending()  # of the step before: the device is already at work
        step += 1
        clock.step = step
        profile.done(step, state)
        pending[step] = metrics
    except Preempted:
      # A data worker that is stuck would be waited for at the end.
      end_workers()
      log_pending()
      if step > saved:
        with clock.stage("save"):
          checkpoints.save(step, state, None)
      stopped = True

    closing.close()  # the last save is known to be complete only now
    if scores and not stopped:
      try:
        with clock.stage("results"):
          objective.write_results(
            End(workdir, run.abstract_state, step, scores, keep_going)
          )
      except Preempted:
        stopped = True
    if stopped:
      writer.say(f"asked to stop at step {step}; repeat the command to go on")
      preemption.leave()
    return not stopped


def check_finite(
  objective: Objective, workdir: Path, step: int, values: dict[str, float]
) -> None:
  """Raises NotFinite if a value is not, naming the step, the terms, the batch.

  The first process reads the batch again, and leaves all that is to be said
  of it in WORKDIR/not_finite.json.
  """
  terms = [name for name, value in values.items() if not math.isfinite(value)]
  if not terms:
    return
  batch, remedy = "", "Start"
  try:
    if jax.process_index() == 0:
      file = workdir / "not_finite.json"
      shapes = examine_batch(objective.source, objective.order, step - 1)
      write_json(file, {"step": step, "terms": terms, "shapes": shapes})
      bad = [shape for shape in shapes if shape["problems"]]
      names = [
        repr(x["id"]) + (f" ({', '.join(x['problems'])})" if bad else "")
        for x in (bad or shapes)[:NAMED]
      ]
      left = len(bad or shapes) - len(names)
      batch = (
        f" Its batch holds {'bad' if bad else 'no visibly bad'} shapes: "
        f"{', '.join(names)}{f' and {left} more' if left else ''}; {file} has "
        "all."
      )
      if bad:
        remedy = "Mend them in the data, or start"
  finally:
    # All have the same values.  Who leaves takes the others with it, so they
    # wait for the first, which has read a whole batch.
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("examined")
  raise NotFinite(
    f"step {step}: {', '.join(terms)} not finite; nothing of this step is "
    f"saved.{batch} {remedy} again in another --workdir with a lower "
    "optimizer.learning_rate or optimizer.clip_norm"
  )


def one_ahead(
  batches: Iterator[Batch], batch_sharding: NamedSharding
) -> Iterator[Batch]:
  """Puts the next batch on the devices while they work on this one.

  Args:
    batches: This process's part of every global batch.
    batch_sharding: Layout of the global batches that are returned.
  """
  queue = collections.deque()
  for batch in batches:
    queue.append(sharding.to_global(batch, batch_sharding))
    if len(queue) > 1:
      yield queue.popleft()
  yield from queue
