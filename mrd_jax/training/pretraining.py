"""Trains an encoder by MRD's losses (`losses/mrd.py`)."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.pretraining import Config, LossConfig
from mrd_jax.data.batches import require_image
from mrd_jax.data.examples import Batch, Examples, train_examples
from mrd_jax.encoder.embed_split import save_embeddings
from mrd_jax.io.files import write_json
from mrd_jax.keys import named
from mrd_jax.losses.mrd import Embeddings, init_dynamic_weights, mrd_loss
from mrd_jax.losses.terms import choose_form
from mrd_jax.models.pointbert import PointBERT, gathered_parameters
from mrd_jax.parallel import sharding
from mrd_jax.training import memory
from mrd_jax.training.accumulate import embed_in_parts
from mrd_jax.training.held_out import HeldOut
from mrd_jax.training.objective import End, Objective
from mrd_jax.training.optimizer import group_labels, make_optimizer


def init_params(
  encoder: PointBERT, loss: LossConfig, logit_scale: float, key: jax.Array
):
  """Draws the first parameters.

  Args:
    encoder: The encoder.
    loss: Decides which dynamic weights exist.
    logit_scale: Initial contrastive scale.
    key: Randomness of the encoder's initialisation.

  Returns:
    {"encoder", "logit_scale", "dynamic_weights"} and the BatchNorm statistics.
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


def loss_of_examples(
  params: dict[str, Any],
  batch_stats: Any,
  examples: Examples,
  *,
  encoder: PointBERT,
  loss: LossConfig,
  parts: int,
  mesh: Mesh | None,
  key: jax.Array | None,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
  """Computes the total loss of a global batch.

  Args:
    params: {"encoder", "logit_scale", "dynamic_weights"}.
    batch_stats: The encoder's running statistics.
    examples: What the input stage made.
    encoder: The encoder.
    loss: The loss.
    parts: How many parts the encoder takes the batch in (`accumulate.py`).
    mesh: The devices that share the batch; None: it is on one.
    key: Randomness of the loss, see `losses.mrd_loss`.

  Returns:
    The loss, with the metrics of `losses.mrd_loss` and the new running
    statistics.
  """
  params = gathered_parameters(params, mesh, encoder.dtype)
  variables = {"params": params["encoder"], "batch_stats": batch_stats}
  clouds = (examples.points, examples.num_points)
  if parts > 1:
    point, running = embed_in_parts(encoder, variables, *clouds, parts)
  else:
    point, updates = encoder.apply(
      variables, *clouds, train=True, mutable=["batch_stats"]
    )
    running = updates["batch_stats"]
  total, metrics = mrd_loss(
    loss,
    Embeddings(point, examples.image, examples.text, examples.has_text),
    params["logit_scale"],
    params["dynamic_weights"],
    key,
    mesh=mesh,
  )
  return total, (metrics, running)


def batch_loss(
  params: dict[str, Any],
  batch_stats: Any,
  batch: Batch,
  step: jax.Array,
  *,
  encoder: PointBERT,
  config: Config,
  mesh: Mesh | None,
):
  """Computes the loss of a step's batch: input stage, encoder, losses.

  It has no gradient for what `optimizer.frozen` matches.
  """
  params = jax.tree.map(
    lambda x, group: jax.lax.stop_gradient(x) if group == "frozen" else x,
    params,
    group_labels(params, config.optimizer.frozen),
  )
  return loss_of_examples(
    params,
    batch_stats,
    train_examples(batch, config.augment, seed=config.seed, step=step),
    encoder=encoder,
    loss=config.loss,
    parts=config.train.accumulate,
    mesh=mesh,
    key=named(jax.random.key(config.seed), "loss", step),
  )


class Pretraining(Objective):
  """Trains an encoder by MRD's losses, and scores held-out splits.

  Args:
    config: The config.

  Raises:
    BadInput: naming the field that does not fit the data or the devices.
  """

  def __init__(self, config: Config):
    run, ev, save = config.train, config.eval, config.checkpoint
    super().__init__(
      config,
      config.data.split,
      length=(run.epochs, run.steps),
      evaluate_every=(ev.every_epochs, ev.every_steps),
      save_every=(save.every_epochs, save.every_steps),
      parts=run.accumulate,
    )
    self.data = {
      "name": self.meta.name,
      "teacher": self.meta.teacher,
      "embed_dim": self.meta.embed_dim,
      "records": len(self.source),
    }
    self.check = require_image
    encoder = PointBERT(
      config.model.size,
      embed_dim=self.meta.embed_dim,
      dtype=jnp.dtype(config.model.dtype),
      gradient_dtype=jnp.dtype(config.model.gradient_dtype),
      remat=config.model.remat,
      attention=config.model.attention,
      point_net=config.model.point_net,
      sampling=config.model.sampling,
      fps_chunk=config.model.fps_chunk,
      query_chunk=config.model.query_chunk,
      batch_sharding=sharding.batch_sharding(self.mesh),
    )
    self.init = functools.partial(
      init_params, encoder, config.loss, config.logit_scale.init
    )
    self.loss = functools.partial(
      batch_loss, encoder=encoder, config=config, mesh=self.mesh
    )
    self.optimizer = make_optimizer(
      config.optimizer,
      steps_per_epoch=self.order.steps_per_epoch,
      num_steps=self.num_steps,
    )
    self.alternating = config.loss.weighting == "alternating"
    self.encoder = encoder
    self.max_logit_scale = config.logit_scale.max
    self.ema_decay = config.optimizer.ema_decay
    self.keep_best = save.keep_best
    self.best_metric = save.best_metric
    self.held_out = HeldOut(config, encoder, self.mesh)

  def summary(self, params: Any) -> str:
    config, meta = self.config, self.meta
    parameters = sum(x.size for x in jax.tree.leaves(params["encoder"]))
    form = choose_form(config.loss, config.train.batch_size, self.mesh.size)
    if form != "dense":
      form += f", {config.loss.stripe} columns at a time"
    if config.loss.form == "auto":
      form += " (loss.form is auto)"
    step = memory.Step(
      self.encoder,
      parameters,
      copies=3 + (self.ema_decay > 0),
      batch_size=config.train.batch_size,
      mesh=self.mesh,
      loss=config.loss,
      parts=config.train.accumulate,
    )
    lines = [
      f"{meta.name}: {len(self.source)} shapes, teacher {meta.teacher}",
      f"encoder: {parameters:,} parameters, {config.model.dtype}",
      f"losses: {form}",
      memory.warning(step),
    ]
    return "\n".join(filter(None, lines))

  def evaluate(
    self, state: TrainState, is_last: bool, keep_going: Callable[[], None]
  ) -> dict[str, float]:
    del is_last
    params = state.average or state.params
    variables = {"params": params["encoder"], "batch_stats": state.batch_stats}
    return self.held_out(variables, keep_going)

  def describe(self, step: int, scores: dict[str, float]) -> str:
    del step
    return self.held_out.describe(scores)

  def write_results(self, end: End) -> None:
    config, step, scores = self.config, end.step, end.scores
    selected_by = None
    if config.checkpoint.rule == "best":
      selected_by = config.checkpoint.best_metric
      with contextlib.closing(
        self.open_checkpoints(end.workdir)
      ) as checkpoints:
        step = checkpoints.best_step()
        state = checkpoints.restore(step, end.abstract_state)
      scores = self.evaluate(state, True, end.keep_going)
    if jax.process_index():
      return
    found = self.held_out.embeddings
    folder = end.workdir / "embeddings"
    folder.mkdir(exist_ok=True)
    for split, embeddings in found.items():
      save_embeddings(folder / f"{split}.npz", embeddings)
    results = {
      "step": step,
      "checkpoint": config.checkpoint.rule,
      # Figures of this metric's split are selected on, not held out.
      "selected_by": selected_by,
      "data": config.eval.data_dir or config.data.dir,
      "shapes": {split: len(x.label) for split, x in found.items()},
      "chance_top1": self.held_out.chance,
      "metrics": scores,
    }
    write_json(end.workdir / "results.json", results)
