"""Accuracy of a classifier on its test split."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mrd_jax import sharding
from mrd_jax.data import pipeline
from mrd_jax.data.records import DatasetMeta
from mrd_jax.data.transforms import Batch
from mrd_jax.evaluate.zero_shot import zero_shot
from mrd_jax.finetune.config import Config
from mrd_jax.finetune.transforms import Drawer
from mrd_jax.models.classifier import Classifier
from mrd_jax.train_state import TrainState


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
    source: pipeline.Source,
    meta: DatasetMeta,
    config: Config,
    mesh: Mesh,
  ):
    sharding.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
    self._classes = model.classes
    self._source = source
    self._meta = meta
    self._config = config
    self._batch_sharding = sharding.batch_sharding(mesh)

    def single(variables, batch: Batch):
      clouds = drawer.test(batch, seed=config.seed)
      return model.apply(variables, *clouds, train=False), batch.label

    def voted(variables, batch: Batch):
      def one(copy: jax.Array):
        clouds = drawer.copies(batch, seed=config.seed, copy=copy)
        return model.apply(variables, *clouds, train=False)

      logits_VBC = jax.lax.map(one, jnp.arange(config.eval.voting))
      return logits_VBC.mean(axis=0), batch.label

    # Whole on every device, so that every process can read all of it.
    whole = sharding.replicated(mesh)
    self._single: Callable[..., Any] = jax.jit(single, out_shardings=whole)
    self._voted: Callable[..., Any] = jax.jit(voted, out_shardings=whole)

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
    parts = []
    batches = pipeline.eval_batches(
      self._source,
      self._meta,
      batch_size=self._config.eval.batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      threads=self._config.data.threads,
    )
    for batch in batches:
      keep_going()
      batch = sharding.to_global(batch, self._batch_sharding)
      parts.append(jax.device_get(forward(variables, batch)))
    logits_NC, label_N = (
      np.concatenate(arrays)[: len(self._source)]
      for arrays in zip(*parts, strict=True)
    )
    scores = zero_shot(
      logits_NC,
      label_N,
      # The scores against this are the logits themselves.
      np.eye(self._classes, dtype=np.float32),
    )
    return {f"{name}/{metric}": value for metric, value in scores.items()}
