"""The training run: set-up and the loop, each in one function."""

import collections
import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from mrd_jax import prepare, sharding
from mrd_jax.checkpoint import Checkpoints
from mrd_jax.config import Config, in_steps
from mrd_jax.data import dataset, pipeline
from mrd_jax.data.transforms import Batch
from mrd_jax.evaluate.embed import Embedder
from mrd_jax.evaluate.held_out import HeldOut, save_embeddings
from mrd_jax.metrics import MetricsWriter, write_json
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.optimizer import make_optimizer
from mrd_jax.preemption import Preempted, Preemption
from mrd_jax.resume import check_resumable, check_same_data
from mrd_jax.train_state import TrainState, eval_variables, make_state
from mrd_jax.train_step import jit_train_step


class NotFinite(RuntimeError):
  """A loss or gradient became NaN or infinite; nothing of it was saved."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What the loop works with, made from a config by `set_up`."""

  init: Callable[[], TrainState]
  abstract_state: TrainState
  step_fn: Callable[[TrainState, Batch], tuple[TrainState, dict]]
  batches: Callable[[int], Iterator[Batch]]
  held_out: HeldOut
  num_steps: int
  steps_per_epoch: int
  data: dict[str, Any]
  summary: str


def set_up(config: Config) -> Run:
  """Checks a config against the data and the devices and makes its `Run`."""
  mesh = sharding.make_mesh(config.mesh.fsdp)
  sharding.check_batch_size("train.batch_size", config.train.batch_size, mesh)
  prepare.ensure(config.data.dir, config.data.made_from)
  data_dir = Path(config.data.dir)
  meta = dataset.read_meta(data_dir)
  source = dataset.open_split(data_dir, config.data.split)
  order = pipeline.TrainOrder(len(source), config.train.batch_size, config.seed)
  num_steps = in_steps(
    config.train.epochs, config.train.steps, order.steps_per_epoch
  )

  batch_sharding = sharding.batch_sharding(mesh)
  encoder = PointBERT(
    config.model.size,
    embed_dim=meta.embed_dim,
    dtype=jnp.dtype(config.model.dtype),
    remat=config.model.remat,
    attention=config.model.attention,
    fps_chunk=config.model.fps_chunk,
    query_chunk=config.model.query_chunk,
    batch_sharding=batch_sharding,
  )
  optimizer = make_optimizer(
    config.optimizer,
    steps_per_epoch=order.steps_per_epoch,
    num_steps=num_steps,
    alternating=config.loss.weighting == "alternating",
  )
  init, abstract_state = make_state(
    encoder,
    config.loss,
    config.logit_scale.init,
    optimizer,
    keep_average=config.optimizer.ema_decay > 0,
    seed=config.seed,
    mesh=mesh,
  )
  step_fn = jit_train_step(encoder, optimizer, config, abstract_state, mesh)
  held_out = HeldOut(
    config.eval,
    data_dir,
    Embedder(
      encoder,
      config.augment,
      meta,
      batch_size=config.eval.batch_size,
      threads=config.data.threads,
      seed=config.seed,
      mesh=mesh,
    ),
  )

  def batches(start_step: int) -> Iterator[Batch]:
    local = pipeline.train_batches(
      source,
      meta,
      order,
      start_step=start_step,
      num_steps=num_steps,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      threads=config.data.threads,
      workers=config.data.workers,
    )
    return _one_ahead(local, batch_sharding)

  parameters = sum(
    x.size for x in jax.tree.leaves(abstract_state.params["encoder"])
  )
  return Run(
    init=init,
    abstract_state=abstract_state,
    step_fn=step_fn,
    batches=batches,
    held_out=held_out,
    num_steps=num_steps,
    steps_per_epoch=order.steps_per_epoch,
    data={
      "name": meta.name,
      "teacher": meta.teacher,
      "embed_dim": meta.embed_dim,
      "records": len(source),
    },
    summary=(
      f"{meta.name}: {len(source)} shapes, teacher {meta.teacher}\n"
      f"encoder: {parameters:,} parameters, {config.model.dtype}\n"
      f"{num_steps} steps of {config.train.batch_size} on {_devices(mesh)}"
    ),
  )


def train(config: Config, workdir: Path) -> None:
  """Trains, or goes on training, the run in `workdir`.

  Leaves there: config.json, data.json, checkpoints/, metrics.jsonl,
  tensorboard/, and at the end results.json and embeddings/.

  Raises:
    BadInput: if the config, the data and the folder do not fit together.
    NotFinite: if the loss or a gradient is no longer finite.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  first_process = jax.process_index() == 0
  run = set_up(config)
  if config.checkpoint.keep_best:
    run.held_out.check_metric(config.checkpoint.best_metric)
  preemption = Preemption()
  checkpoints = Checkpoints(
    workdir / "checkpoints",
    keep_latest=config.checkpoint.keep_latest,
    keep_best=config.checkpoint.keep_best,
    best_metric=config.checkpoint.best_metric,
  )
  start, last = checkpoints.latest_step() or 0, run.num_steps
  if start:
    check_resumable(config, workdir / "config.json")
    check_same_data(run.data, workdir / "data.json")
  if first_process:
    write_json(workdir / "config.json", dataclasses.asdict(config))
    write_json(workdir / "data.json", run.data)
  state = (
    checkpoints.restore(start, run.abstract_state) if start else run.init()
  )
  # The step we start from is evaluated again if a stop kept its scores from
  # being recorded.
  evaluate_start = not checkpoints.has_scores(start) or (
    start == last and not (workdir / "results.json").exists()
  )
  writer = MetricsWriter(
    workdir,
    num_steps=last,
    batch_size=config.train.batch_size,
    start_step=start,
    drop_start_evaluation=evaluate_start,
    enabled=first_process,
  )
  writer.say(run.summary)
  if start:
    writer.say(f"resumed from the checkpoint of step {start}")

  def due(epochs: float, steps: int, step: int) -> bool:
    interval = in_steps(epochs, steps, run.steps_per_epoch)
    return step == last or step % interval == 0

  def evaluation_due(step: int) -> bool:
    return due(config.eval.every_epochs, config.eval.every_steps, step) and (
      step > start or evaluate_start
    )

  def save_due(step: int) -> bool:
    interval = config.checkpoint.every_epochs, config.checkpoint.every_steps
    return due(*interval, step)

  batches = run.batches(start)
  pending: dict[int, dict] = {}  # the newest step's metrics, on the device

  def log_pending() -> None:
    for step, metrics in pending.items():
      values = {k: float(v) for k, v in jax.device_get(metrics).items()}
      check_finite(step, values)
      if step % config.log.every_steps == 0 or step == last:
        writer.train(step, values)
    pending.clear()

  step = saved = start
  stopped = False
  embeddings = scores = None
  with contextlib.closing(checkpoints), contextlib.closing(writer):
    try:
      # Evaluate, save, next batch, step: a checkpoint of step s is what the
      # s-th step left, with its scores, before data of the next is read.
      while True:
        scores = None
        if evaluation_due(step):
          log_pending()
          scores, found = run.held_out(
            eval_variables(state), functools.partial(preemption.poll, step)
          )
          embeddings = found if step == last else None
          writer.evaluation(step, scores, run.held_out.describe(scores))
        if step > saved and (scores or save_due(step)):
          log_pending()
          checkpoints.save(step, state, scores)
          saved = step
        if step == last:
          break
        preemption.poll(step)
        state, metrics = run.step_fn(state, next(batches))
        log_pending()  # of the step before: the device is already at work
        step += 1
        pending[step] = metrics
    except Preempted:
      log_pending()
      if step > saved:
        checkpoints.save(step, state, None)
      stopped = True

  # The last save is known to be complete only now.
  if stopped:
    writer.say(f"asked to stop at step {step}; repeat the command to go on")
  elif scores and embeddings and first_process:
    _write_results(workdir, config, run, scores, embeddings)


def check_finite(step: int, values: dict[str, float]) -> None:
  """Raises NotFinite, naming the step and the terms, if any value is not."""
  bad = [name for name, value in values.items() if not math.isfinite(value)]
  if bad:
    raise NotFinite(
      f"step {step}: {', '.join(bad)} not finite; nothing of this step is "
      "saved. Look for bad features in the data, or start again in another "
      "--workdir with a lower optimizer.learning_rate or optimizer.clip_norm"
    )


def _one_ahead(
  batches: Iterator[Batch], batch_sharding: NamedSharding
) -> Iterator[Batch]:
  """Puts the next batch on the devices while they work on this one."""
  queue = collections.deque()
  for batch in batches:
    queue.append(sharding.to_global(batch, batch_sharding))
    if len(queue) > 1:
      yield queue.popleft()
  yield from queue


def _write_results(
  workdir: Path, config: Config, run: Run, scores: dict, embeddings: dict
) -> None:
  (workdir / "embeddings").mkdir(exist_ok=True)
  for split, found in embeddings.items():
    save_embeddings(workdir / "embeddings" / f"{split}.npz", found)
  results = {
    "step": run.num_steps,
    "checkpoint": "last",
    "data": config.data.dir,
    "chance_top1": run.held_out.chance,
    "metrics": scores,
  }
  write_json(workdir / "results.json", results)


def _devices(mesh: Mesh) -> str:
  kind = mesh.devices.flat[0].device_kind
  return f"{mesh.size} x {kind}, mesh {json.dumps(dict(mesh.shape))}"
