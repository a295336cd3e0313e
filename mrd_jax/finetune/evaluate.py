"""Accuracy of a classifier on its test split."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.finetuning import Config
from mrd_jax.data import batches
from mrd_jax.data.examples import Batch
from mrd_jax.data.map_split import map_split
from mrd_jax.data.records import DatasetMeta
from mrd_jax.finetune.transforms import Drawer
from mrd_jax.metrics.zero_shot import zero_shot
from mrd_jax.models.classifier import Classifier
from mrd_jax.parallel import sharding


class Evaluator:
  """Classifies the test split, on all devices.

  Args:
    model: The classifier.
    drawer: Draws its clouds.
    source: The split.
    meta: The dataset's padded sizes.
    config: The run's.
    mesh: The devices.
  """

  def __init__(
    self,
    model: Classifier,
    drawer: Drawer,
    source: batches.Source,
    meta: DatasetMeta,
    config: Config,
    mesh: Mesh,
  ):
    sharding.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
    self._classes = model.classes
    self._source = source
    self._meta = meta
    self._config = config
    self._mesh = mesh

    def single(variables, batch: Batch):
      variables = sharding.gathered(variables, mesh)
      clouds = drawer.test(batch, seed=config.seed)
      return model.apply(variables, *clouds, train=False), batch.label

    def voted(variables, batch: Batch):
      variables = sharding.gathered(variables, mesh)

      def one(copy: jax.Array):
        clouds = drawer.copies(batch, seed=config.seed, copy=copy)
        return model.apply(variables, *clouds, train=False)

      logits_VBC = jax.lax.map(one, jnp.arange(config.eval.voting))
      return logits_VBC.mean(axis=0), batch.label

    layout = sharding.batch_sharding(mesh)
    self._single: Callable[..., Any] = jax.jit(single, out_shardings=layout)
    self._voted: Callable[..., Any] = jax.jit(voted, out_shardings=layout)

  def __call__(
    self, state: TrainState, is_last: bool, keep_going: Callable[[], None]
  ) -> tuple[dict[str, float], None]:
    """The metrics of the split, named "test/top1", "test/class_mean", ...

    At the end of a run, if `eval.voting` is above 0, also "voted/top1", ... of
    the mean logits of so many augmented copies of each shape, drawn as in
    training.  That is Point-BERT's vote: one, not the best of several hundred.

    Args:
      state: The classifier's.
      is_last: Whether the run ends with it.
      keep_going: Called before every batch; may raise to stop.

    Returns:
      The metrics, and nothing besides (`loop.Run.evaluate`).
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    scores = self._scores("test", self._single, variables, keep_going)
    if is_last and self._config.eval.voting:
      scores |= self._scores("voted", self._voted, variables, keep_going)
    return scores, None

  def _scores(
    self,
    name: str,
    forward: Callable[..., Any],
    variables,
    keep_going: Callable[[], None],
  ) -> dict[str, float]:
    logits_NC, label_N = map_split(
      functools.partial(forward, variables),
      self._source,
      self._meta,
      batch_size=self._config.eval.batch_size,
      threads=self._config.data.threads,
      mesh=self._mesh,
      keep_going=keep_going,
    )
    scores = zero_shot(
      logits_NC,
      label_N,
      # The scores against this are the logits themselves.
      np.eye(self._classes, dtype=np.float32),
    )
    return {f"{name}/{metric}": value for metric, value in scores.items()}
