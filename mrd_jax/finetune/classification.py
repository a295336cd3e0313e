"""Trains a classifier on what an encoder gives: fine-tuning's objective."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.finetuning import Config
from mrd_jax.data import dataset
from mrd_jax.data.batches import Source, pad_records
from mrd_jax.data.examples import Batch
from mrd_jax.data.map_split import map_split
from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput
from mrd_jax.finetune.encoders import make_encoder
from mrd_jax.finetune.start import Start
from mrd_jax.finetune.transforms import Drawer
from mrd_jax.io.files import read_json_lines, write_json
from mrd_jax.keys import named
from mrd_jax.metrics.zero_shot import zero_shot
from mrd_jax.models.classifier import Classifier
from mrd_jax.models.pointbert import PointBERT, gathered_parameters
from mrd_jax.parallel import sharding
from mrd_jax.training import memory
from mrd_jax.training.objective import End, Objective
from mrd_jax.training.optimizer import adamw


class Classification(Objective):
  """Trains an encoder and a new head to classify, and scores the test split.

  Args:
    config: The config.
    start: What the run starts from.
    encoder_variables: {"params", "batch_stats"} of the encoder; None to draw
      them, or if a checkpoint has them.

  Raises:
    BadInput: naming the field or the split that does not fit.
  """

  def __init__(self, config: Config, start: Start, encoder_variables: Any):
    super().__init__(
      config,
      config.data.train,
      length=(config.train.epochs, 0),
      evaluate_every=(config.eval.every_epochs, 0),
      save_every=(config.checkpoint.every_epochs, 0),
    )
    sharding.check_batch_size(
      "eval.batch_size", config.eval.batch_size, self.mesh
    )
    self.start = start
    self.loaded = (encoder_variables,)
    self.test_source = open_test_split(config, self.meta)
    self.classes = list(self.meta.class_names[config.data.train])
    self.data = {
      "name": self.meta.name,
      "train": len(self.source),
      "test": len(self.test_source),
      "classes": self.classes,
    }
    # AdamW over all parameters; the norm that is clipped is that of all.
    self.optimizer = adamw(
      config.optimizer,
      config.optimizer.learning_rate,
      config.optimizer.weight_decay,
      steps_per_epoch=self.order.steps_per_epoch,
      num_steps=self.num_steps,
    )
    batch_sharding = sharding.batch_sharding(self.mesh)
    self.model = Classifier(
      make_encoder(config.model, start, batch_sharding),
      classes=len(self.classes),
      hidden=config.model.hidden,
      dropout=config.model.dropout,
      batch_sharding=batch_sharding,
    )
    self.drawer = Drawer(
      config.augment,
      swap_yz=start.up_axis == "z",
      colour_fill=start.colour_fill,
      fps_chunk=config.model.fps_chunk,
      batch_sharding=batch_sharding,
    )
    self._forward = jax.jit(
      self._logits, static_argnames="voted", out_shardings=batch_sharding
    )

  def check(self, record: dict[str, Any], /) -> None:
    if not 0 <= record["label"] < len(self.classes):
      raise BadInput(
        f"data.train: shape {record['id']!r} of split "
        f"{self.config.data.train!r} has label {record['label']}, which is "
        f"none of its {len(self.classes)} classes; prepare the dataset again "
        "without it"
      )

  def summary(self, params: Any) -> str:
    parameters = sum(x.size for x in jax.tree.leaves(params))
    warning = ""
    if isinstance(self.model.encoder, PointBERT):
      step = memory.Step(
        self.model.encoder,
        parameters,
        copies=3,
        batch_size=self.config.train.batch_size,
        mesh=self.mesh,
      )
      warning = memory.warning(step)
    lines = [
      f"{self.meta.name}: {len(self.source)} shapes of {len(self.classes)} "
      f"classes to learn from, {len(self.test_source)} to be tested on",
      f"classifier: {parameters:,} parameters, {self.config.model.dtype}, "
      f"started from {self.start.checkpoint or 'scratch'}",
      warning,
    ]
    return "\n".join(filter(None, lines))

  def init(self, key: jax.Array, *loaded: Any) -> tuple[Any, Any]:
    (encoder_variables,) = loaded
    # One cloud is enough to learn the shapes; a mesh could not share it.
    # And CLIP's towers would draw their parameters in half precision.
    encoder: Any = self.model.encoder
    if isinstance(encoder, PointBERT):
      encoder = encoder.clone(batch_sharding=None)
    else:
      encoder = encoder.clone(dtype=jnp.float32)
    alone = self.model.clone(encoder=encoder, batch_sharding=None)
    variables: Any = alone.init(
      key, jnp.zeros((1, 2, 6)), jnp.ones(1, jnp.int32), train=False
    )
    if encoder_variables is not None:
      variables = {
        kind: values | {"encoder": encoder_variables[kind]}
        for kind, values in variables.items()
      }
    return variables["params"], variables.get("batch_stats", {})

  def loss(
    self, params: Any, batch_stats: Any, batch: Batch, step: jax.Array
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    clouds = self.drawer.train(batch, seed=self.config.seed, step=step)
    key = named(jax.random.key(self.config.seed), "regularisation", step)
    if isinstance(self.model.encoder, PointBERT):
      params = gathered_parameters(params, self.mesh, self.model.encoder.dtype)
    else:
      params = sharding.gathered(params, self.mesh)
    logits_BC, updates = self.model.apply(
      {"params": params, "batch_stats": batch_stats},
      *clouds,
      train=True,
      mutable=["batch_stats"],
      rngs={name: named(key, name) for name in ("dropout", "drop_path")},
    )
    smoothing = self.config.train.label_smoothing
    loss = cross_entropy(logits_BC, batch.label, smoothing)
    accuracy = (logits_BC.argmax(axis=-1) == batch.label).mean()
    metrics = {"loss": loss, "accuracy": accuracy}
    # Other systems keep theirs, or have none.
    return loss, (metrics, updates.get("batch_stats", batch_stats))

  def _logits(self, variables: Any, batch: Batch, *, voted: bool):
    """Computes (B, C) logits, with the (B,) labels they are held against."""
    variables = sharding.gathered(variables, self.mesh)
    seed = self.config.seed
    if not voted:
      clouds = self.drawer.test(batch, seed=seed)
      return self.model.apply(variables, *clouds, train=False), batch.label

    def of_copy(copy: jax.Array):
      clouds = self.drawer.copies(batch, seed=seed, copy=copy)
      return self.model.apply(variables, *clouds, train=False)

    logits_VBC = jax.lax.map(of_copy, jnp.arange(self.config.eval.voting))
    return logits_VBC.mean(axis=0), batch.label

  def evaluate(
    self, state: TrainState, is_last: bool, keep_going: Callable[[], None]
  ) -> dict[str, float]:
    """Scores the test split: "test/top1", "test/class_mean", ...

    At the end of a run, if `eval.voting` is above 0, also "voted/top1", ... of
    the mean logits of so many augmented copies of each shape, drawn as in
    training.  That is Point-BERT's vote: one, not the best of several hundred.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    votes = is_last and self.config.eval.voting
    scores = {}
    for rule in ("test", "voted") if votes else ("test",):
      logits_NC, label_N = map_split(
        functools.partial(self._forward, variables, voted=rule == "voted"),
        self.test_source,
        self.meta,
        pad=pad_records,
        batch_size=self.config.eval.batch_size,
        threads=self.config.data.threads,
        mesh=self.mesh,
        keep_going=keep_going,
      )
      # Each class is its own direction: the similarities are the logits.
      found = zero_shot(
        logits_NC, label_N, np.eye(len(self.classes), dtype=np.float32)
      )
      scores |= {f"{rule}/{name}": value for name, value in found.items()}
    return scores

  def describe(self, step: int, scores: dict[str, float]) -> str:
    text = (
      f"epoch {step / self.order.steps_per_epoch:.4g}: test top-1 "
      f"{scores['test/top1']:.1%}, class mean {scores['test/class_mean']:.1%}"
    )
    if "voted/top1" in scores:
      text += f", voted top-1 {scores['voted/top1']:.1%}"
    return text

  def write_results(self, end: End) -> None:
    if jax.process_index():
      return
    # metrics.jsonl has all scores, those of the last and of the best epoch.
    evaluations = [
      {
        "step": line["step"],
        "epoch": line["step"] / self.order.steps_per_epoch,
        "metrics": {k: v for k, v in line.items() if "/" in k},
      }
      for line in read_json_lines(end.workdir / "metrics.jsonl")
      if line["kind"] == "eval"
    ]
    config, start = self.config, self.start
    results = {
      **evaluations[-1],
      "checkpoint": "last",
      # Selected on the test split, as Point-BERT publishes: not held out.  The
      # first of equals.
      "best_test_epoch": max(
        evaluations, key=lambda x: (x["metrics"]["test/top1"], -x["step"])
      ),
      "data": config.data.dir,
      "splits": {"train": config.data.train, "test": config.data.test},
      "shapes": len(self.test_source),
      "start": {k: vars(start)[k] for k in ("checkpoint", "step", "source")},
      "seed": config.seed,
      "chance_top1": {"test": 1 / len(self.classes)},
    }
    write_json(end.workdir / "results.json", results)


def open_test_split(config: Config, meta: DatasetMeta) -> Source:
  """Opens the test split, if it belongs to the training split.

  Raises:
    BadInput: naming the split that is missing, has no labels, or has other
      classes than the other.
  """
  data = config.data
  if data.train == data.test:
    raise BadInput(
      f"data.train and data.test are both {data.test!r}: what is learned from "
      "is no test"
    )
  source = dataset.open_split(data.dir, data.test)
  for field, split in (("train", data.train), ("test", data.test)):
    if split not in meta.class_names:
      raise BadInput(
        f"data.{field}: split {split!r} of {data.dir} has no labels; splits "
        f"that have: {', '.join(sorted(meta.class_names)) or 'none'}"
      )
  train, test = (list(meta.class_names[x]) for x in (data.train, data.test))
  if train != test:
    raise BadInput(
      f"data.train and data.test: split {data.train!r} has {len(train)} "
      f"classes, {data.test!r} has {len(test)}, and they are not the same in "
      "the same order; name two parts of one data set"
    )
  return source


def cross_entropy(
  logits_BC: jax.Array, label_B: jax.Array, smoothing: float
) -> jax.Array:
  """Computes the mean cross entropy with smoothed targets (arXiv 1512.00567).

  The target is `1 - smoothing` on the label plus `smoothing / C` on every
  class (section 7), as in PyTorch and optax.  Point-BERT's own form spreads
  `smoothing` over the other classes alone.

  Args:
    logits_BC: (B, C) logits.
    label_B: (B,) integers.
    smoothing: Share that is spread.
  """
  target_BC = jax.nn.one_hot(label_B, logits_BC.shape[-1])
  target_BC = optax.smooth_labels(target_BC, smoothing)
  return optax.softmax_cross_entropy(logits_BC, target_BC).mean()
