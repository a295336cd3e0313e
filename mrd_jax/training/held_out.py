"""Scores held-out splits during pre-training."""

import re
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from mrd_jax.config.pretraining import Config
from mrd_jax.data import dataset
from mrd_jax.encoder.embed_split import Embedder, SplitEmbeddings
from mrd_jax.errors import BadInput
from mrd_jax.metrics.embeddings import unit
from mrd_jax.metrics.relation_gap import relation_gap
from mrd_jax.metrics.retrieval import retrieval
from mrd_jax.metrics.zero_shot import zero_shot
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.zoo.system import Preparation


class HeldOut:
  """Scores the held-out splits of a config.

  Metrics are named "SPLIT/top1", "SPLIT/text_to_shape_r1", and so on.

  Attributes:
    chance: Top-1 accuracy of guessing, by zero-shot split.
    embeddings: By split, what the newest scores were computed from.

  Args:
    config: Which splits are scored how.
    encoder: The encoder.
    mesh: The devices.

  Raises:
    BadInput: if a split cannot be scored so, or none has the best metric.
  """

  def __init__(self, config: Config, encoder: PointBERT, mesh: Mesh):
    self._config = config.eval
    self._data_dir = Path(config.eval.data_dir or config.data.dir)
    meta = dataset.read_meta(self._data_dir)
    if meta.embed_dim != encoder.embed_dim:
      raise BadInput(
        f"eval.data_dir: the features in {self._data_dir} have width "
        f"{meta.embed_dim}, those in {config.data.dir} {encoder.embed_dim}; "
        "name a dataset of the same teacher"
      )
    self._embedder = Embedder(
      encoder,
      meta,
      preparation=Preparation(
        config.augment.num_points, config.augment.up_axis, order="shuffled"
      ),
      batch_size=config.eval.batch_size,
      threads=config.data.threads,
      mesh=mesh,
    )
    splits = dict.fromkeys(
      config.eval.zero_shot + config.eval.retrieval + config.eval.relation_gap
    )
    self._sources = {s: dataset.open_split(self._data_dir, s) for s in splits}
    self._classes = {
      s: unit(dataset.class_features(self._data_dir, s))
      for s in config.eval.zero_shot
    }
    self.chance = {split: 1 / len(x) for split, x in self._classes.items()}
    self.embeddings: dict[str, SplitEmbeddings] = {}
    if config.checkpoint.keep_best:
      self._check_metric(config.checkpoint.best_metric)

  def __call__(
    self, variables, keep_going: Callable[[], None]
  ) -> dict[str, float]:
    """Scores every split.

    Args:
      variables: The encoder's.
      keep_going: Called before every batch; may raise to stop.
    """
    metrics, embeddings = {}, {}
    for split, source in self._sources.items():
      found = embeddings[split] = self._embedder(variables, source, keep_going)
      point, image, has_image, text, has_text, label = found
      scores = {}
      try:
        if split in self._classes:
          scores |= zero_shot(point, label, self._classes[split])
        if split in self._config.retrieval:
          pictures = {"image_ND": image, "has_image_N": has_image}
          scores |= retrieval(point, text, has_text, **pictures, label_N=label)
        if split in self._config.relation_gap:
          scores |= relation_gap(point, image, text, has_image, has_text)
      except BadInput as error:
        raise BadInput(
          f"split {split!r} of {self._data_dir}: {error}; take it out of "
          "eval.zero_shot, eval.retrieval or eval.relation_gap"
        ) from error
      metrics |= {f"{split}/{name}": value for name, value in scores.items()}
    self.embeddings = embeddings
    return metrics

  def describe(self, metrics: dict[str, float]) -> str:
    """Writes the scores in one line a split, with the chance level."""
    lines = []
    for split in self._sources:
      parts = []
      for title, names in (
        ("zero-shot top-1/3/5", ("top1", "top3", "top5")),
        ("text->3D R@1/5", ("text_to_shape_r1", "text_to_shape_r5")),
        ("3D->text R@1/5", ("shape_to_text_r1", "shape_to_text_r5")),
      ):
        if f"{split}/{names[0]}" in metrics:
          scores = (f"{metrics[f'{split}/{name}']:.1%}" for name in names)
          parts.append(f"{title} {' '.join(scores)}")
          if names[0] == "top1":
            parts[-1] += f" (chance {self.chance[split]:.1%})"
      if split in self._config.relation_gap:
        gaps = (
          f"{name.partition('gap_')[2].upper().replace('_', '/')} {value:.2f}"
          for name, value in metrics.items()
          if name.startswith(f"{split}/gap_")
        )
        parts.append(f"relation gap {' '.join(gaps)}")
      lines.append(f"{split}: {', '.join(parts)}")
    return "\n  ".join(lines)

  def _check_metric(self, name: str) -> None:
    """Raises BadInput unless an evaluation yields the metric `name`."""
    split, _, score = name.partition("/")
    kinds = (
      (self._config.zero_shot, "top[135]|class_mean(_top[35])?"),
      (
        self._config.retrieval,
        "(text_to_shape|shape_to_text|image_to_shape)(_category)?_r[135]",
      ),
    )
    if not any(
      split in splits and re.fullmatch(scores, score)
      for splits, scores in kinds
    ):
      raise BadInput(
        f"checkpoint.best_metric is {name!r}, which no evaluation yields; "
        "name one as 'val/top1' (a split of eval.zero_shot) or "
        "'val/text_to_shape_r1' (of eval.retrieval), or set "
        "checkpoint.keep_best to 0"
      )
