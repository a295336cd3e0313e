"""The pre-training run: its set-up, for the loop in `training/loop.py`."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.fields import in_steps
from mrd_jax.config.pretraining import Config
from mrd_jax.data import dataset
from mrd_jax.data.batches import examine_batch, train_batches
from mrd_jax.data.examples import Batch
from mrd_jax.data.order import TrainOrder
from mrd_jax.encoder.embed_split import Embedder, save_embeddings
from mrd_jax.errors import BadInput
from mrd_jax.io.files import write_json
from mrd_jax.losses.terms import choose_form
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding
from mrd_jax.training.held_out import HeldOut
from mrd_jax.training.loop import Run, one_ahead, train_loop
from mrd_jax.training.optimizer import make_optimizer
from mrd_jax.training.profile import compile_cache
from mrd_jax.training.state import eval_variables, make_state
from mrd_jax.training.step import jit_train_step


def set_up(config: Config) -> Run:
  """Checks a config against the data and the devices and makes its `Run`."""
  mesh = sharding.make_mesh(config.mesh.fsdp)
  sharding.check_batch_size(
    "train.batch_size",
    config.train.batch_size,
    mesh,
    parts=config.train.accumulate,
  )
  data_dir = Path(config.data.dir)
  meta = dataset.read_meta(data_dir)
  source = dataset.open_split(data_dir, config.data.split)
  order = TrainOrder(len(source), config.train.batch_size, config.seed)
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
    sampling=config.model.sampling,
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
  eval_dir = Path(config.eval.data_dir or config.data.dir)
  eval_meta = dataset.read_meta(eval_dir)
  if eval_meta.embed_dim != meta.embed_dim:
    raise BadInput(
      f"eval.data_dir: the features in {eval_dir} have width "
      f"{eval_meta.embed_dim}, those in {data_dir} {meta.embed_dim}; name a "
      "dataset of the same teacher"
    )
  held_out = HeldOut(
    config.eval,
    eval_dir,
    Embedder(
      encoder,
      config.augment,
      eval_meta,
      batch_size=config.eval.batch_size,
      threads=config.data.threads,
      seed=config.seed,
      mesh=mesh,
    ),
  )
  if config.checkpoint.keep_best:
    held_out.check_metric(config.checkpoint.best_metric)

  def batches(start_step: int) -> Iterator[Batch]:
    local = train_batches(
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
    return one_ahead(local, batch_sharding)

  parameters = sum(
    x.size for x in jax.tree.leaves(abstract_state.params["encoder"])
  )
  return Run(
    config=config,
    data={
      "name": meta.name,
      "teacher": meta.teacher,
      "embed_dim": meta.embed_dim,
      "records": len(source),
    },
    summary=(
      f"{meta.name}: {len(source)} shapes, teacher {meta.teacher}\n"
      f"encoder: {parameters:,} parameters, {config.model.dtype}\n"
      f"{num_steps} steps of {config.train.batch_size} on {_devices(mesh)}\n"
      f"losses: {_form(config, mesh)}"
    ),
    init=init,
    abstract_state=abstract_state,
    step_fn=step_fn,
    batches=batches,
    evaluate=lambda state, is_last, keep_going: held_out(
      eval_variables(state), keep_going
    ),
    describe=lambda step, scores: held_out.describe(scores),
    write_results=functools.partial(
      _write_results, config, held_out, abstract_state
    ),
    open_checkpoints=functools.partial(_open_checkpoints, config),
    num_steps=num_steps,
    batch_size=config.train.batch_size,
    evaluate_every=in_steps(
      config.eval.every_epochs, config.eval.every_steps, order.steps_per_epoch
    ),
    save_every=in_steps(
      config.checkpoint.every_epochs,
      config.checkpoint.every_steps,
      order.steps_per_epoch,
    ),
    log_every=config.log.every_steps,
    profile=config.profile,
    stall_seconds=config.log.stall_seconds,
    wandb=config.log.wandb,
    examine=functools.partial(examine_batch, source, order),
  )


def train(config: Config, workdir: Path) -> bool:
  """Trains, or goes on training, the run in `workdir`.

  Leaves there what `train_loop` does, and at the end results.json and
  embeddings/.

  Returns:
    Whether the run has come to its end; False if it was asked to stop.

  Raises:
    BadInput: if the config, the data and the folder do not fit together.
    NotFinite: if the loss or a gradient is no longer finite.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with compile_cache(config.compile_cache):
    return train_loop(set_up(config), workdir)


def _open_checkpoints(config: Config, workdir: Path) -> Checkpoints:
  return Checkpoints(
    workdir / "checkpoints",
    keep_latest=config.checkpoint.keep_latest,
    keep_best=config.checkpoint.keep_best,
    best_metric=config.checkpoint.best_metric,
  )


def _write_results(
  config: Config,
  held_out: HeldOut,
  abstract_state: TrainState,
  workdir: Path,
  step: int,
  scores: dict,
  embeddings: dict,
  keep_going: Callable[[], None],
) -> None:
  selected_by = None
  if config.checkpoint.rule == "best":
    selected_by = config.checkpoint.best_metric
    with contextlib.closing(_open_checkpoints(config, workdir)) as checkpoints:
      step = checkpoints.best_step()
      state = checkpoints.restore(step, abstract_state)
    scores, embeddings = held_out(eval_variables(state), keep_going)
  if jax.process_index():
    return
  (workdir / "embeddings").mkdir(exist_ok=True)
  for split, found in embeddings.items():
    save_embeddings(workdir / "embeddings" / f"{split}.npz", found)
  results = {
    "step": step,
    "checkpoint": config.checkpoint.rule,
    # Figures of this metric's split are selected on, not held out.
    "selected_by": selected_by,
    "data": config.eval.data_dir or config.data.dir,
    "shapes": {split: len(found.label) for split, found in embeddings.items()},
    "chance_top1": held_out.chance,
    "metrics": scores,
  }
  write_json(workdir / "results.json", results)


def _form(config: Config, mesh: Mesh) -> str:
  """How the losses are computed, and who chose."""
  form = choose_form(config.loss, config.train.batch_size, mesh.size)
  tiles = f", {config.loss.stripe} columns at a time" * (form != "dense")
  return form + tiles + " (loss.form is auto)" * (config.loss.form == "auto")


def _devices(mesh: Mesh) -> str:
  kind = mesh.devices.flat[0].device_kind
  return f"{mesh.size} x {kind}, mesh {json.dumps(dict(mesh.shape))}"
