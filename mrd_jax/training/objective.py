"""Says what a run trains: all in which pre-training and fine-tuning differ.

`training/pretraining.py` and `finetune/classification.py` are the two
objectives; `training/set_up.py` makes a run of one, `training/loop.py` trains.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax

from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.fields import in_steps
from mrd_jax.data import dataset
from mrd_jax.data.order import TrainOrder
from mrd_jax.parallel import sharding


class End(NamedTuple):
  """How a run has ended.

  Attributes:
    workdir: Its folder, in which all is saved.
    abstract_state: By which a checkpoint can be read.
    step: The last.
    scores: Of it.
    keep_going: As in `Objective.evaluate`.
  """

  workdir: Path
  abstract_state: TrainState
  step: int
  scores: dict[str, float]
  keep_going: Callable[[], None]


class Objective:
  """Says what is trained, on which data, and how it is measured.

  Args:
    config: The config.
    split: Training split.
    length: Of the run, (epochs, steps), one of which is 0.
    evaluate_every: Interval, besides the last step; likewise.
    save_every: The same.
    parts: Parts that a device takes its share of a batch in.

  Attributes:
    config: Goes to config.json, and must be the same when a run goes on.
    data: What identifies the data; goes to data.json, likewise.
    mesh: The devices.
    source: The training split.
    meta: The padded sizes of its records.
    order: Which records are in the batch of which step.
    num_steps: Length of the run; likewise in steps `evaluate_every` and
      `save_every`.
    check: Raises BadInput for a record that cannot be trained on.
    init: (key, *loaded) -> the first parameters and BatchNorm statistics.
    loaded: Weights that `init` takes.
    loss: (params, batch_stats, batch, step) -> the loss of a global batch and
      (metrics, new batch_stats).  It is differentiated by `params`, and all
      its randomness follows from `step`.
    optimizer: Makes updates of the gradients.
    max_logit_scale: Where the contrastive scale is clamped; 0: nowhere.
    alternating: Whether a step updates the dynamic weights first and then the
      encoder under the new ones, both on its batch: first-order DARTS.
    ema_decay: Decay of the moving average of the parameters; 0 keeps none.
    keep_best: How many of the best checkpoints are kept.
    best_metric: What is best.

  Raises:
    BadInput: naming the field that does not fit the data or the devices.
  """

  data: dict[str, Any]
  check: Callable[[dict[str, Any]], None]
  init: Callable[..., tuple[Any, Any]]
  loaded: tuple[Any, ...] = ()
  loss: Callable[..., Any]
  optimizer: optax.GradientTransformation
  max_logit_scale = 0.0
  alternating = False
  ema_decay = 0.0
  keep_best = 0
  best_metric = ""

  def __init__(
    self,
    config: Any,
    split: str,
    *,
    length: tuple[float, int],
    evaluate_every: tuple[float, int],
    save_every: tuple[float, int],
    parts: int = 1,
  ):
    batch_size = config.train.batch_size
    self.config = config
    self.mesh = sharding.make_mesh(config.mesh.fsdp)
    sharding.check_batch_size(
      "train.batch_size", batch_size, self.mesh, parts=parts
    )
    self.meta = dataset.read_meta(config.data.dir)
    self.source = dataset.open_split(config.data.dir, split)
    self.order = TrainOrder(len(self.source), batch_size, config.seed)
    self.num_steps, self.evaluate_every, self.save_every = (
      in_steps(*interval, self.order.steps_per_epoch)
      for interval in (length, evaluate_every, save_every)
    )

  def open_checkpoints(self, workdir: Path) -> Checkpoints:
    """Opens the checkpoints of a run."""
    return Checkpoints(
      workdir / "checkpoints",
      keep_latest=self.config.checkpoint.keep_latest,
      keep_best=self.keep_best,
      best_metric=self.best_metric,
    )

  def summary(self, params: Any) -> str:
    """Describes data and model in lines; `params` has shapes alone."""
    raise NotImplementedError

  def evaluate(
    self, state: TrainState, is_last: bool, keep_going: Callable[[], None]
  ) -> dict[str, float]:
    """Scores a state, of the run's last step or of another, by name.

    Calls `keep_going` before every batch, which may raise to stop.
    """
    raise NotImplementedError

  def describe(self, step: int, scores: dict[str, float]) -> str:
    """Writes the scores as they are printed."""
    raise NotImplementedError

  def write_results(self, end: End) -> None:
    """Writes results.json; every process calls it."""
    raise NotImplementedError
