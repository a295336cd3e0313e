"""CLIP as a teacher: unit-length features of images and of texts.

teacher = ClipTeacher.from_pretrained("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k")
teacher.image_features(["a.png", "b.jpg"])  # (2, D) float32
teacher.text_features(["a red chair"])  # (1, D) float32
print(teacher.throughput)
"""

import collections
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.images import AnyImage
from mrd_jax.models.clip import Attention
from mrd_jax.teachers import files, weights
from mrd_jax.teachers.images import Preprocessor
from mrd_jax.teachers.towers import Throughput, Towers

_AHEAD = 2  # batches on the devices, and as many more in preparation
_LENGTHS = 16, 32  # tokens that texts are padded to, besides the context


class ClipTeacher:
  """A CLIP model on all local devices, with tokenizer and preprocessing.

  Attributes:
    name: Its name for the record: folder or "user/model@commit", and the
      first digits of the SHA-256 of its tensors.
    fingerprint: SHA-256 of all that decides a feature: tensors, config,
      tokenizer, preprocessing.
    dtype: "float32" or "bfloat16", of the matrix products.
    embed_dim: D.
    image_size: S, side of an image in pixels.
    throughput: What was embedded so far, and how fast; prints as a sentence.
  """

  def __init__(
    self,
    name: str,
    fingerprint: str,
    towers: Towers,
    preprocessor: Preprocessor,
    tokenizer: Any,
  ):
    size = towers.model.size
    self.name = name
    self.fingerprint = fingerprint
    self.dtype = np.dtype(towers.model.dtype).name
    self.embed_dim = size.embed_dim
    self.image_size = size.image_size
    self.throughput = Throughput()
    self._towers = towers
    self._preprocessor = preprocessor
    self._tokenizer = tokenizer
    self._context = min(size.context, tokenizer.model_max_length)

  @classmethod
  def from_pretrained(
    cls,
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str = "bfloat16",
    batch_size: int = 64,
    attention: Attention = "xla",
  ) -> "ClipTeacher":
    """Loads a Hugging Face `CLIPModel`, from disk or from the hub.

    Args:
      name_or_path: A folder with config.json, model.safetensors (or shards
        and their index), preprocessor_config.json and the tokenizer; or the
        name of a repository that has them, "user/model".
      revision: Branch, tag or commit of the repository.
      dtype: Of the matrix products, "float32" or "bfloat16".
      batch_size: Images or texts at a time on each device.
      attention: "xla", or "cudnn" on GPUs with bfloat16.

    Raises:
      BadInput: if there is no such model, it cannot be fetched, or a file of
        it cannot be used; names the file.
    """
    folder, name = files.find(os.fspath(name_or_path), revision)
    paths = files.find_weights(folder)
    size = weights.read_size(folder / files.CONFIG)
    preprocessor = Preprocessor(files.preprocessor(folder), size.image_size)
    tokenizer = _load_tokenizer(folder, size.vocabulary, size.eos_token_id)
    towers = Towers(
      size,
      dtype,
      batch_size=batch_size,
      scale=preprocessor.scale,
      mean=preprocessor.mean,
      std=preprocessor.std,
      attention=attention,
    )
    towers.params, digest = weights.load_params(
      paths, size, towers.model.dtype, towers.put
    )
    whole = hashlib.sha256(f"{digest} {size}".encode())
    for file in (*files.PREPROCESSORS, *files.TOKENIZER):
      if (folder / file).is_file():
        whole.update(file.encode() + (folder / file).read_bytes())
    return cls(
      f"{name} (sha256 {digest[:12]})",
      whole.hexdigest(),
      towers,
      preprocessor,
      tokenizer,
    )

  def image_features(self, images: Iterable[AnyImage]) -> np.ndarray:
    """Embeds images.

    They are read and resized by threads, a few batches ahead of the devices.

    Args:
      images: n of them, from a sequence or an iterator, which is drawn from
        as they are needed; of PIL, arrays (H, W, 3 or 4) uint8, bytes of PNG,
        JPEG or WebP files, or paths.  See `to_rgb`.

    Returns:
      (n, D) float32, unit length, in their order.

    Raises:
      BadInput: naming the image by its place, if it cannot be read or its
        features are not finite.
    """
    if isinstance(images, str | bytes):
      raise BadInput(
        "images is one file's name or content; give a list of them"
      )
    watch = _Watch(self._towers)
    side = self.image_size
    source = enumerate(images)
    parts = _Queue("image")
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
      futures: collections.deque = collections.deque()

      def draw(count: int) -> None:
        for row, image in islice(source, count):
          futures.append(pool.submit(self._prepare, row, image))

      try:
        draw(_AHEAD * self._towers.batch)
        while futures:
          rows = min(self._towers.batch, len(futures))
          pixels = np.zeros((self._towers.batch, 3, side, side), np.uint8)
          for row in range(rows):
            pixels[row] = futures.popleft().result()
            draw(1)
          parts.put(self._towers.image(pixels), rows)
      finally:
        pool.shutdown(cancel_futures=True)
    features = parts.join(self.embed_dim)
    self.throughput.images += len(features)
    self.throughput.image_seconds += watch.seconds()
    self.throughput.compile_seconds = self._towers.compile_seconds
    return features

  def text_features(self, texts: Iterable[str]) -> np.ndarray:
    """Embeds texts.

    A text longer than the context is cut, its end token kept, as Hugging
    Face's tokenizer does; `throughput.truncated` counts them.  Texts are
    padded to one of three lengths, each to the least that holds it.

    Args:
      texts: n of them.

    Returns:
      (n, D) float32, unit length, in their order.

    Raises:
      BadInput: naming the text by its place, if it is empty or its features
        are not finite.
    """
    if isinstance(texts, str):
      raise BadInput("texts is one text; give a list of them")
    watch = _Watch(self._towers)
    texts = list(texts)
    for row, text in enumerate(texts):
      if not isinstance(text, str) or not text.strip():
        raise BadInput(f"text {row} is {text!r}: give words, or leave it out")
    ids = self._tokenize(texts)
    features = np.zeros((len(texts), self.embed_dim), np.float32)
    shorter = 0
    for length in (*(n for n in _LENGTHS if n < self._context), self._context):
      rows = [i for i, x in enumerate(ids) if shorter < len(x) <= length]
      parts = _Queue("text", rows)
      for start in range(0, len(rows), self._towers.batch):
        part = rows[start : start + self._towers.batch]
        tokens = np.full((self._towers.batch, length), self._pad_id(), np.int32)
        mask = np.zeros_like(tokens)
        mask[:, 0] = 1  # of the rows that fill the batch, too
        for i, row in enumerate(part):
          tokens[i, : len(ids[row])] = ids[row]
          mask[i, : len(ids[row])] = 1
        parts.put(self._towers.text(tokens, mask), len(part))
      features[rows] = parts.join(self.embed_dim)
      shorter = length
    self.throughput.texts += len(texts)
    self.throughput.text_seconds += watch.seconds()
    self.throughput.compile_seconds = self._towers.compile_seconds
    return features

  def _prepare(self, row: int, image: AnyImage) -> np.ndarray:
    try:
      return self._preprocessor(image)
    except BadInput as error:
      raise BadInput(f"image {row}: {error}") from error

  def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
      return []
    encoded = self._tokenizer(
      texts, truncation=True, max_length=self._context
    ).encodings
    self.throughput.truncated += sum(bool(x.overflowing) for x in encoded)
    return [x.ids for x in encoded]

  def _pad_id(self) -> int:
    pad, end = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
    return end if pad is None else pad


class _Watch:
  """Measures time but for that of compiling."""

  def __init__(self, towers: Towers):
    self._towers = towers
    self._start = time.perf_counter() - towers.compile_seconds

  def seconds(self) -> float:
    return time.perf_counter() - self._start - self._towers.compile_seconds


class _Queue:
  """Fetches features a few batches behind the devices, in order."""

  def __init__(self, kind: str, rows: Sequence[int] | None = None):
    self._kind, self._rows = kind, rows
    self._waiting: collections.deque = collections.deque()
    self._done: list[np.ndarray] = []
    self._count = 0

  def put(self, features: jax.Array, rows: int) -> None:
    self._waiting.append((features, rows))
    if len(self._waiting) > _AHEAD:
      self._fetch()

  def join(self, width: int) -> np.ndarray:
    while self._waiting:
      self._fetch()
    return np.concatenate([np.zeros((0, width), np.float32), *self._done])

  def _fetch(self) -> None:
    features, rows = self._waiting.popleft()
    part = np.asarray(features)[:rows]
    bad = ~np.isfinite(part).all(axis=1)
    if bad.any():
      row = self._count + int(bad.argmax())
      row = row if self._rows is None else self._rows[row]
      raise BadInput(
        f"{self._kind} {row}: its features are NaN or infinite; the weights "
        "are damaged, or need dtype='float32'"
      )
    self._count += rows
    self._done.append(part)


def _load_tokenizer(folder: Path, vocabulary: int, eos: int | None) -> Any:
  """Hugging Face's tokenizer of a folder, checked against the model."""
  from transformers import AutoTokenizer

  try:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encodings = tokenizer(["a"]).encodings
    largest = max(tokenizer.get_vocab().values())
  except Exception as error:  # the library's checks have types of their own
    words = " ".join(str(error).split())
    raise BadInput(
      f"{folder}: its tokenizer cannot be read: {words}"
    ) from error
  if not encodings:
    raise BadInput(f"{folder}: its tokenizer is not one of CLIP")
  if largest >= vocabulary:
    raise BadInput(
      f"{folder}: its tokenizer has the token {largest}, the config.json "
      f"beside it says vocab_size {vocabulary}: they do not belong together"
    )
  if eos is not None and eos not in encodings[0].ids:
    raise BadInput(
      f"{folder}: its tokenizer ends a text with token "
      f"{encodings[0].ids[-1]}, the config.json beside it says eos_token_id "
      f"{eos}: they do not belong together"
    )
  return tokenizer
