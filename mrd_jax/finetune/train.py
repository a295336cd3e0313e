"""The fine-tuning run: its set-up, for the loop in `mrd_jax/training/loop.py`."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.config.fields import in_steps
from mrd_jax.config.finetuning import Config
from mrd_jax.data import dataset
from mrd_jax.data.batches import examine_batch, train_batches
from mrd_jax.data.examples import Batch
from mrd_jax.data.order import TrainOrder
from mrd_jax.errors import BadInput
from mrd_jax.finetune import start as starts
from mrd_jax.finetune.evaluate import Evaluator
from mrd_jax.finetune.step import jit_train_step, make_optimizer, make_state
from mrd_jax.finetune.transforms import Drawer
from mrd_jax.io.files import read_json_lines, write_json
from mrd_jax.models.classifier import Classifier
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding
from mrd_jax.training.loop import Run, one_ahead, train_loop
from mrd_jax.training.profile import compile_cache


def open_data(config: Config):
  """Opens the two splits and checks that they belong together.

  Returns:
    The dataset's metadata, the training and the test source.

  Raises:
    BadInput: naming the split that is missing, has no labels, or has other
      classes than the other.
  """
  meta = dataset.read_meta(config.data.dir)
  if config.data.train == config.data.test:
    raise BadInput(
      f"data.train and data.test are both {config.data.test!r}: what is "
      "learned from is no test"
    )
  sources = []
  for field in ("train", "test"):
    split = getattr(config.data, field)
    sources.append(dataset.open_split(config.data.dir, split))
    if split not in meta.class_names:
      raise BadInput(
        f"data.{field}: split {split!r} of {config.data.dir} has no labels; "
        f"splits that have: {', '.join(sorted(meta.class_names)) or 'none'}"
      )
  train, test = (
    list(meta.class_names[split])
    for split in (config.data.train, config.data.test)
  )
  if train != test:
    raise BadInput(
      f"data.train and data.test: split {config.data.train!r} has "
      f"{len(train)} classes, {config.data.test!r} has {len(test)}, and they "
      "are not the same in the same order; name two parts of one data set"
    )
  return meta, *sources


def set_up(config: Config, start: starts.Start, encoder_variables: Any) -> Run:
  """Checks a config against the data and the devices and makes its `Run`."""
  mesh = sharding.make_mesh(config.mesh.fsdp)
  sharding.check_batch_size("train.batch_size", config.train.batch_size, mesh)
  meta, source, test_source = open_data(config)
  classes = len(meta.class_names[config.data.train])
  order = TrainOrder(len(source), config.train.batch_size, config.seed)
  num_steps = in_steps(config.train.epochs, 0, order.steps_per_epoch)

  batch_sharding = sharding.batch_sharding(mesh)
  model = Classifier(
    PointBERT(
      start.architecture,
      embed_dim=None,
      dtype=jnp.dtype(config.model.dtype),
      remat=config.model.remat,
      attention=config.model.attention,
      fps_chunk=config.model.fps_chunk,
      query_chunk=config.model.query_chunk,
      batch_sharding=batch_sharding,
      drop_path=config.model.drop_path,
      output="tokens",
    ),
    classes=classes,
    hidden=config.model.hidden,
    dropout=config.model.dropout,
  )
  drawer = Drawer(
    config.augment,
    swap_yz=start.up_axis == "z",
    colour_fill=start.colour_fill,
    fps_chunk=config.model.fps_chunk,
    batch_sharding=batch_sharding,
  )
  optimizer = make_optimizer(
    config.optimizer,
    steps_per_epoch=order.steps_per_epoch,
    num_steps=num_steps,
  )
  init, abstract_state = make_state(
    model,
    optimizer,
    encoder_variables=encoder_variables,
    seed=config.seed,
    mesh=mesh,
  )
  step_fn = jit_train_step(
    model, drawer, optimizer, config, abstract_state, mesh
  )

  def require_label(record: dict[str, Any]) -> None:
    if not 0 <= record["label"] < classes:
      raise BadInput(
        f"data.train: shape {record['id']!r} of split {config.data.train!r} "
        f"has label {record['label']}, which is none of its {classes} classes; "
        "prepare the dataset again without it"
      )

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
      check=require_label,
    )
    return one_ahead(local, batch_sharding)

  def describe(step: int, scores: dict[str, float]) -> str:
    text = (
      f"epoch {step / order.steps_per_epoch:.4g}: test top-1 "
      f"{scores['test/top1']:.1%}, class mean {scores['test/class_mean']:.1%}"
    )
    if "voted/top1" in scores:
      text += f", voted top-1 {scores['voted/top1']:.1%}"
    return text

  data = {
    "name": meta.name,
    "train": len(source),
    "test": len(test_source),
    "classes": list(meta.class_names[config.data.train]),
  }
  parameters = sum(x.size for x in jax.tree.leaves(abstract_state.params))
  return Run(
    config=config,
    data=data,
    summary=(
      f"{meta.name}: {len(source)} shapes of {classes} classes to learn from, "
      f"{len(test_source)} to be tested on\n"
      f"classifier: {parameters:,} parameters, {config.model.dtype}, started "
      f"from {start.checkpoint or 'scratch'}\n"
      f"{num_steps} steps of {config.train.batch_size} on {mesh.size} x "
      f"{mesh.devices.flat[0].device_kind}"
    ),
    init=init,
    abstract_state=abstract_state,
    step_fn=step_fn,
    batches=batches,
    evaluate=Evaluator(model, drawer, test_source, meta, config, mesh),
    describe=describe,
    write_results=functools.partial(
      _write_results, config, start, data, order.steps_per_epoch
    ),
    open_checkpoints=functools.partial(_open_checkpoints, config),
    num_steps=num_steps,
    batch_size=config.train.batch_size,
    evaluate_every=in_steps(config.eval.every_epochs, 0, order.steps_per_epoch),
    save_every=in_steps(
      config.checkpoint.every_epochs, 0, order.steps_per_epoch
    ),
    log_every=config.log.every_steps,
    profile=config.profile,
    stall_seconds=config.log.stall_seconds,
    wandb=config.log.wandb,
    examine=functools.partial(examine_batch, source, order),
  )


def finetune(
  config: Config, checkpoint: str, workdir: Path, *, which: str = "latest"
) -> dict[str, Any] | None:
  """Fine-tunes, or goes on fine-tuning, the run in `workdir`.

  Leaves there what `train_loop` does, start.json, and at the end results.json.

  Args:
    config: The run's config.
    checkpoint: The encoder to start from, as `load_encoder` takes it; "" for
      none.
    workdir: The run's folder.
    which: Checkpoint of a run to start from, "latest" or "best".

  Returns:
    The content of results.json, on the first process; None if the run was
    asked to stop before its end.

  Raises:
    BadInput: if the config, the checkpoint, the data and the folder do not fit
      together.
    NotFinite: if the loss or a gradient is no longer finite.
  """
  first_process = jax.process_index() == 0
  start_file = workdir / starts.START_FILE
  if (workdir / "config.json").exists() and not start_file.exists():
    raise BadInput(
      f"--workdir: {workdir} holds a run that is no fine-tuning; name another "
      "folder"
    )
  workdir.mkdir(parents=True, exist_ok=True)
  with contextlib.closing(_open_checkpoints(config, workdir)) as checkpoints:
    goes_on = checkpoints.latest_step()
  start, encoder_variables = (
    (starts.read(workdir, checkpoint, which), None)
    if goes_on
    else starts.load(checkpoint, which, config.scratch)
  )
  run = set_up(config, start, encoder_variables)
  if first_process:
    write_json(start_file, dataclasses.asdict(start))
  with compile_cache(config.compile_cache):
    ended = train_loop(run, workdir)
  if not ended or not first_process:
    return None
  return json.loads((workdir / "results.json").read_text())


def _open_checkpoints(config: Config, workdir: Path) -> Checkpoints:
  return Checkpoints(
    workdir / "checkpoints",
    keep_latest=config.checkpoint.keep_latest,
    keep_best=0,
    best_metric="",
  )


def _write_results(
  config: Config,
  start: starts.Start,
  data: dict[str, Any],
  steps_per_epoch: int,
  workdir: Path,
  *_,  # metrics.jsonl has the scores, also those of the best epoch
) -> None:
  if jax.process_index():
    return
  evaluations = [
    line
    for line in read_json_lines(workdir / "metrics.jsonl")
    if line["kind"] == "eval"
  ]

  def scores(line: dict[str, Any]) -> dict[str, Any]:
    return {
      "step": line["step"],
      "epoch": line["step"] / steps_per_epoch,
      "metrics": {k: v for k, v in line.items() if "/" in k},
    }

  best = max(evaluations, key=lambda line: (line["test/top1"], -line["step"]))
  results = {
    **scores(evaluations[-1]),
    "checkpoint": "last",
    # Selected on the test split, as Point-BERT publishes: not held out.
    "best_test_epoch": scores(best),
    "data": config.data.dir,
    "splits": {"train": config.data.train, "test": config.data.test},
    "shapes": data["test"],
    "start": {k: vars(start)[k] for k in ("checkpoint", "step", "source")},
    "seed": config.seed,
    "chance_top1": {"test": 1 / len(data["classes"])},
  }
  write_json(workdir / "results.json", results)
