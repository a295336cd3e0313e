"""Embeds images and texts by CLIP, as features of unit length.

teacher = ClipTeacher.from_pretrained("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k")
teacher.image_features(["a.png", "b.jpg"])  # (2, D) float32
teacher.text_features(["a red chair"])  # (1, D) float32
print(teacher.throughput)
"""

import collections
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.images import AnyImage
from mrd_jax.models.clip import Attention
from mrd_jax.teachers import files, weights
from mrd_jax.teachers.images import Preprocessor
from mrd_jax.teachers.texts import TextEmbedder, load_tokenizer
from mrd_jax.teachers.towers import AHEAD, Towers, fetch


class ClipTeacher(TextEmbedder):
  """A CLIP model on all local devices, with tokenizer and preprocessing.

  Attributes:
    image_size: S, side of an image in pixels.
    others: See `TextEmbedder`.  The name begins with the folder's or
      "user/model@commit"; config and preprocessing are in the fingerprint, too.
  """

  def __init__(
    self,
    name: str,
    fingerprint: str,
    towers: Towers,
    preprocessor: Preprocessor,
    tokenizer: Any,
  ):
    super().__init__(name, fingerprint, towers, tokenizer)
    self.image_size = towers.model.size.image_size
    self._preprocessor = preprocessor

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
    tokenizer = load_tokenizer(
      folder,
      size.vocabulary,
      size.eos_token_id,
      "the config.json beside it says",
    )
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
    name = f"{name} (sha256 {digest[:12]})"
    fingerprint = files.fingerprint(
      f"{digest} {size}", folder, (*files.PREPROCESSORS, *files.TOKENIZER)
    )
    return cls(name, fingerprint, towers, preprocessor, tokenizer)

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
          draw(AHEAD * towers.batch)
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
    parts += [part for _, part in fetch("image", batches())]
    features = np.concatenate(parts)
    done.images += len(features)
    done.image_seconds += time.perf_counter() - done.compile_seconds - start
    return features

  def _prepare(self, row: int, image: AnyImage) -> np.ndarray:
    try:
      return self._preprocessor(image)
    except BadInput as error:
      raise BadInput(f"image {row}: {error}") from error
