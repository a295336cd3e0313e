"""Measures one encoder by the suites of `python -m mrd_jax.evaluate`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mrd_jax.data import dataset
from mrd_jax.data.captions import coverage, read_captions
from mrd_jax.encoder.embed_split import Embedder, SplitEmbeddings
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.errors import BadInput
from mrd_jax.evaluate.protocol import Protocol, ProtocolSource
from mrd_jax.evaluate.settings import Setting
from mrd_jax.evaluate.suites import ZERO_SHOT, Found
from mrd_jax.metrics import probe
from mrd_jax.metrics.embeddings import unit
from mrd_jax.metrics.relation_gap import relation_gap
from mrd_jax.metrics.retrieval import retrieval
from mrd_jax.metrics.zero_shot import confusion, zero_shot
from mrd_jax.parallel import sharding


class Result(NamedTuple):
  """What a suite found out about one encoder.

  Attributes:
    metrics: Shares in [0, 1], or mean absolute errors.
    protocol: What the figures depend on besides the encoder.
    per_class: A row a class; empty where there are none.
    confusion: Class names, and (C, C) counts; None where there is none.
  """

  metrics: dict[str, float]
  protocol: dict[str, Any]
  per_class: list[dict[str, Any]] = []
  confusion: tuple[Sequence[str], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Options:
  """What a user may change of the suites.

  Attributes:
    protocol: How clouds are presented.
    batch_size: Clouds at a time, rounded up to a multiple of the devices; it
      changes no figure.
    shots: Labelled shapes per class of `few_shot`.
    repeats: Draws of `few_shot`.
    regularisation: C of the probes' logistic regression.
    class_features: Makes (C, D) features of class names; None takes those
      that are stored with the split.
    text_features: Makes (N, D) features of captions; None takes the stored
      features of each shape's first text.
    teacher: What the two above come from, in words; "" without them.
  """

  protocol: Protocol
  batch_size: int
  shots: tuple[int, ...]
  repeats: int
  regularisation: float
  class_features: Callable[[Sequence[str]], np.ndarray] | None = None
  text_features: Callable[[tuple[str, ...]], np.ndarray] | None = None
  teacher: str = ""


class Evaluator:
  """Runs suites on one encoder.

  A split is embedded once for all that take its clouds alike.

  Args:
    encoder: The encoder.
    options: See `Options`.
  """

  def __init__(self, encoder: Encoder, options: Options):
    self._encoder, self._options = encoder, options
    self._mesh = sharding.make_mesh(fsdp=1)
    # By way of the host: they are on one device of this process.
    self._variables = jax.device_put(
      jax.device_get(encoder.variables), sharding.replicated(self._mesh)
    )
    # Of the flags, for all suites but those of a standard protocol.
    self._setting = Setting(
      encoder.model,
      options.protocol.preparation(encoder.config),
      options.protocol,
      options.class_features,
      options.teacher,
    )
    self._embedders: dict[Any, Embedder] = {}
    self._embeddings: dict[Any, SplitEmbeddings] = {}

  def __call__(
    self, suite: str, found: Found, setting: Setting | None = None
  ) -> Result:
    """Measures one suite.

    Args:
      suite: Its name.
      found: Where its shapes are.
      setting: Of zero-shot classification; None: as the options say.

    Raises:
      BadInput: if the splits and the encoder do not fit the suite.
    """
    classify = functools.partial(
      self._zero_shot, setting=setting or self._setting
    )
    measures = dict.fromkeys(ZERO_SHOT, classify) | {
      "retrieval": self._retrieval,
      "relation_gap": self._relation_gap,
      "linear_probe": self._linear_probe,
      "few_shot": self._few_shot,
    }
    try:
      return measures[suite](found)
    except BadInput as error:
      splits = ",".join(found.splits)
      raise BadInput(
        f"suite {suite}, {splits} of {found.data}: {error}"
      ) from error

  def _zero_shot(self, found: Found, setting: Setting) -> Result:
    names = self._class_names(found)
    if setting.class_features is not None:
      class_CD = setting.class_features(names)
    else:
      class_CD = unit(dataset.class_features(found.data, found.splits[0]))
    self._check_width(found, class_CD.shape[1], setting.texts)
    shapes = self._embed(found, setting)
    metrics = zero_shot(shapes.point, shapes.label, class_CD)
    matrix_CC, scores = confusion(shapes.point, shapes.label, class_CD)
    protocol = self._protocol(found, setting) | {
      "classes": len(names),
      "texts": setting.texts or "stored with the classes",
    }
    if setting.differs:
      protocol["differs"] = setting.differs
    per_class = []
    for row in scores:
      other = row.confused_with
      confused_with = None if other is None else names[other]
      named = {"name": names[row.label], "confused_with": confused_with}
      per_class.append(row._asdict() | named)
    return Result(metrics, protocol, per_class, (names, matrix_CC))

  def _retrieval(self, found: Found) -> Result:
    self._check_width(found, dataset.read_meta(found.data).embed_dim)
    shapes = self._embed(found)
    protocol = self._protocol(found) | {"texts": "the first of each shape"}
    if self._options.text_features is not None:
      captions: dict[str, str] = {}
      ids = []
      for split in found.splits:
        captions |= read_captions(found.data / f"captions_{split}.csv", [])
        ids += [x["id"] for x in dataset.open_split(found.data, split)]
      has_text_N = np.array([uid in captions for uid in ids])
      if not has_text_N.any():
        raise BadInput(
          f"{found.data}: no shape of {', '.join(found.splits)} has a caption; "
          "write them with python -m mrd_jax.prepare captions"
        )
      features = self._options.text_features(
        tuple(captions[uid] for uid in ids if uid in captions)
      )
      self._check_width(found, features.shape[1], self._options.teacher)
      text_ND = np.zeros_like(shapes.point)
      text_ND[has_text_N] = unit(features)
      shapes = shapes._replace(text=text_ND, has_text=has_text_N)
      protocol["texts"] = self._options.teacher
      protocol["captions"] = coverage(captions, ids)
    protocol["with_text"] = int(shapes.has_text.sum())
    protocol["with_image"] = int(shapes.has_image.sum())
    point, image, has_image, text, has_text, label = shapes
    pictures = {"image_ND": image, "has_image_N": has_image}
    metrics = retrieval(point, text, has_text, **pictures, label_N=label)
    return Result(metrics, protocol)

  def _relation_gap(self, found: Found) -> Result:
    self._check_width(found, dataset.read_meta(found.data).embed_dim)
    point, image, has_image, text, has_text, _ = self._embed(found)
    metrics = relation_gap(point, image, text, has_image, has_text)
    return Result(metrics, self._protocol(found))

  def _linear_probe(self, found: Found) -> Result:
    if len(found.splits) != 2:
      raise BadInput(
        "suite linear_probe needs two splits, --split linear_probe=TRAIN,TEST"
      )
    self._class_names(found)
    train, test = (
      self._embed(found._replace(splits=(split,))) for split in found.splits
    )
    c = self._options.regularisation
    metrics = probe.linear_probe(
      train.point, train.label, test.point, test.label, c=c
    )
    protocol = self._protocol(found) | {
      "shapes": len(test.label),
      "train_shapes": len(train.label),
      "C": c,
    }
    return Result(metrics, protocol)

  def _few_shot(self, found: Found) -> Result:
    shapes = self._embed(found)
    metrics: dict[str, float] = {}
    c, repeats = self._options.regularisation, self._options.repeats
    protocol = self._protocol(found) | {"C": c, "repeats": repeats}
    for shots in self._options.shots:
      scores, counts = probe.few_shot(
        shapes.point, shapes.label, shots=shots, seeds=range(repeats), c=c
      )
      metrics |= {f"{shots}_shot_{name}": x for name, x in scores.items()}
      protocol |= {f"{shots}_shot_{name}": x for name, x in counts.items()}
    return Result(metrics, protocol)

  def _class_names(self, found: Found) -> Sequence[str]:
    names = dataset.read_meta(found.data).class_names
    lists = {tuple(names.get(split, ())) for split in found.splits}
    if len(lists) != 1 or not (only := lists.pop()):
      raise BadInput(
        f"{found.data}: the splits {', '.join(found.splits)} have no classes, "
        "or not the same ones; name others with --split"
      )
    return only

  def _check_width(self, found: Found, width: int, texts: str = "") -> None:
    config = self._encoder.config
    own = config.dim
    if own != width:
      raise BadInput(
        f"the encoder's embeddings have width {own} "
        f"({config.embedding_space}), the teacher's features {width} "
        f"({texts or found.data}): they are of different "
        "teachers"
      )

  def _shared_out(self, model: Any) -> Any:
    """Returns the module so that it shares out what it can."""
    if not hasattr(model, "batch_sharding"):
      return model
    return model.clone(batch_sharding=sharding.batch_sharding(self._mesh))

  def _embed(
    self, found: Found, setting: Setting | None = None
  ) -> SplitEmbeddings:
    """Embeds splits, each of them once, and joins them."""
    model, preparation, protocol = (setting or self._setting)[:3]
    data, devices = found.data, self._mesh.size
    key = data, model, preparation, protocol
    if key not in self._embedders:
      self._embedders[key] = Embedder(
        self._shared_out(model),
        protocol.meta(dataset.read_meta(data)),
        preparation=preparation,
        batch_size=-(-self._options.batch_size // devices) * devices,
        threads=2,
        mesh=self._mesh,
      )
    parts = []
    for split in found.splits:
      if (key, split) not in self._embeddings:
        source = ProtocolSource(dataset.open_split(data, split), protocol)
        self._embeddings[key, split] = self._embedders[key](
          self._variables, source, lambda: None
        )
      parts.append(self._embeddings[key, split])
    return SplitEmbeddings(*map(np.concatenate, zip(*parts, strict=True)))

  def _protocol(
    self, found: Found, setting: Setting | None = None
  ) -> dict[str, Any]:
    """Says what the figures of every suite depend on."""
    setting = setting or self._setting
    shapes = self._embed(found, setting)
    protocol: dict[str, Any] = {"shapes": len(shapes.label)}
    protocol |= dataclasses.asdict(setting.protocol)
    space = self._encoder.config.embedding_space
    teacher = dataset.read_meta(found.data).teacher
    if space != teacher and not setting.texts:
      # Not refused: the same teacher may be worded in two ways.
      protocol["teachers"] = f"encoder: {space}; dataset: {teacher}"
    return protocol
