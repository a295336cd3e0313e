"""Embeds images and texts by CLIP, as features of unit length.

teacher = ClipTeacher.from_pretrained("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k")
teacher.image_features(["a.png", "b.jpg"])  # (2, D) float32
teacher.text_features(["a red chair"])  # (1, D) float32
print(teacher.throughput)
"""

import collections
import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.images import AnyImage
from mrd_jax.models.clip import Attention
from mrd_jax.teachers import files, weights
from mrd_jax.teachers.images import Preprocessor
from mrd_jax.teachers.towers import Towers

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
    self.throughput = towers.throughput
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
    name = f"{name} (sha256 {digest[:12]})"
    return cls(name, whole.hexdigest(), towers, preprocessor, tokenizer)

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
    towers, side, done = self._towers, self.image_size, self.throughput
    start = time.perf_counter() - done.compile_seconds
    source = enumerate(images)

    def batches() -> Iterator[tuple[jax.Array, Sequence[int]]]:
      count = 0
      with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        futures: collections.deque = collections.deque()

        def draw(count: int) -> None:
          for row, image in itertools.islice(source, count):
            futures.append(pool.submit(self._prepare, row, image))

        try:
          draw(_AHEAD * towers.batch)
          while futures:
            rows = range(count, count + min(towers.batch, len(futures)))
            pixels = np.zeros((towers.batch, 3, side, side), np.uint8)
            for i in range(len(rows)):
              pixels[i] = futures.popleft().result()
              draw(1)
            yield towers.image(pixels), rows
            count = rows.stop
        finally:
          pool.shutdown(cancel_futures=True)

    parts = [np.zeros((0, self.embed_dim), np.float32)]
    parts += [part for _, part in _fetch("image", batches())]
    features = np.concatenate(parts)
    done.images += len(features)
    done.image_seconds += time.perf_counter() - done.compile_seconds - start
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
    towers, done = self._towers, self.throughput
    start = time.perf_counter() - done.compile_seconds
    texts = list(texts)
    for row, text in enumerate(texts):
      if not isinstance(text, str) or not text.strip():
        raise BadInput(f"text {row} is {text!r}: give words, or leave it out")
    tokenizer, ids = self._tokenizer, []
    if texts:
      encoded = tokenizer(texts, truncation=True, max_length=self._context)
      done.truncated += sum(bool(x.overflowing) for x in encoded.encodings)
      ids = [x.ids for x in encoded.encodings]
    pad = tokenizer.pad_token_id
    pad = tokenizer.eos_token_id if pad is None else pad

    def batches() -> Iterator[tuple[jax.Array, Sequence[int]]]:
      shorter = 0
      for length in sorted({*_LENGTHS, self._context}):
        rows = [i for i, x in enumerate(ids) if shorter < len(x) <= length]
        shorter = length
        for first in range(0, len(rows), towers.batch):
          part = rows[first : first + towers.batch]
          tokens = np.full((towers.batch, length), pad, np.int32)
          mask = np.zeros_like(tokens)
          mask[:, 0] = 1  # of the rows that fill the batch, too
          for i, row in enumerate(part):
            tokens[i, : len(ids[row])] = ids[row]
            mask[i, : len(ids[row])] = 1
          yield towers.text(tokens, mask), part

    features = np.zeros((len(texts), self.embed_dim), np.float32)
    for rows, part in _fetch("text", batches()):
      features[rows] = part
    done.texts += len(texts)
    done.text_seconds += time.perf_counter() - done.compile_seconds - start
    return features

  def _prepare(self, row: int, image: AnyImage) -> np.ndarray:
    try:
      return self._preprocessor(image)
    except BadInput as error:
      raise BadInput(f"image {row}: {error}") from error


def _fetch(
  kind: str, batches: Iterable[tuple[jax.Array, Sequence[int]]]
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
  """Brings features to the host, in order, a few batches behind the devices.

  Args:
    kind: What messages call a row.
    batches: Features, being computed, with the rows that they are of; further
      rows fill the batch.
  """
  waiting: collections.deque = collections.deque()
  # After the last batch come as many rounds as there are batches behind.
  for batch in itertools.chain(batches, [None] * _AHEAD):
    waiting.append(batch)
    if len(waiting) <= _AHEAD:
      continue
    features, rows = waiting.popleft()
    part = np.asarray(features)[: len(rows)]
    bad = ~np.isfinite(part).all(axis=1)
    if bad.any():
      raise BadInput(
        f"{kind} {rows[int(bad.argmax())]}: its features are NaN or infinite; "
        "the weights are damaged, or need dtype='float32'"
      )
    yield rows, part


def _load_tokenizer(folder: Path, vocabulary: int, eos: int | None) -> Any:
  """Hugging Face's tokenizer of a folder, checked against the model."""
  from transformers import AutoTokenizer

  try:
    tokenizer = AutoTokenizer.from_pretrained(
      folder, local_files_only=True, trust_remote_code=False
    )
    encodings = tokenizer(["a"]).encodings
    largest = max(tokenizer.get_vocab().values())
  except Exception as error:  # the library's checks have types of their own
    raise BadInput(
      f"{folder}: its tokenizer cannot be read: {files.reason(error)}"
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
