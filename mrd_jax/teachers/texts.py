"""Embeds texts by a text tower of CLIP and its tokenizer."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.teachers import files
from mrd_jax.teachers.towers import Towers, fetch

_LENGTHS = 16, 32  # tokens that texts are padded to, besides the context


class TextEmbedder:
  """A text tower on all local devices, with its tokenizer.

  Attributes:
    name: Its name for the record, with the first digits of the SHA-256 of its
      tensors.
    fingerprint: SHA-256 of all that decides a feature: tensors, sizes,
      tokenizer.
    dtype: "float32" or "bfloat16", of the matrix products.
    embed_dim: D.
    throughput: What was embedded so far, and how fast; prints as a sentence.
  """

  def __init__(
    self, name: str, fingerprint: str, towers: Towers, tokenizer: Any
  ):
    size = towers.model.size
    self.name = name
    self.fingerprint = fingerprint
    self.dtype = np.dtype(towers.model.dtype).name
    self.embed_dim = size.embed_dim
    self.throughput = towers.throughput
    self._towers = towers
    self._tokenizer = tokenizer
    self._context = min(size.context, tokenizer.model_max_length)

  def text_features(
    self, texts: Iterable[str], *, unit: bool = True
  ) -> np.ndarray:
    """Embeds texts.

    A text longer than the context is cut, its end token kept, as Hugging
    Face's tokenizer does; `throughput.truncated` counts them.  Texts are
    padded to one of three lengths, each to the least that holds it.

    Args:
      texts: n of them.
      unit: False leaves features as the projection gives them.

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
          yield towers.text(tokens, mask, unit), part

    features = np.zeros((len(texts), self.embed_dim), np.float32)
    for rows, part in fetch("text", batches()):
      features[rows] = part
    done.texts += len(texts)
    done.text_seconds += time.perf_counter() - done.compile_seconds - start
    return features


def load_tokenizer(
  folder: Path,
  vocabulary: int,
  eos: int | None,
  source: str,
  kind: str = "AutoTokenizer",
) -> Any:
  """Loads Hugging Face's tokenizer of a folder, checked against the model.

  Args:
    folder: Of its files.
    vocabulary: Tokens of the model.
    eos: Its end of a text; None is not checked.
    source: What says so, for messages, with its verb.
    kind: The class in transformers.

  Raises:
    BadInput: if it cannot be read, or is another model's.
  """
  import transformers

  try:
    tokenizer = getattr(transformers, kind).from_pretrained(
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
      f"{folder}: its tokenizer has the token {largest}, {source} vocab_size "
      f"{vocabulary}: they do not belong together"
    )
  if eos is not None and eos not in encodings[0].ids:
    raise BadInput(
      f"{folder}: its tokenizer ends a text with token "
      f"{encodings[0].ids[-1]}, {source} eos_token_id {eos}: they do not "
      "belong together"
    )
  return tokenizer
