"""Stores drafts: shapes with images and texts that no teacher has seen yet.

The jobs that need features run in two stages.  Workers make drafts (they read,
sample, render, which needs cores), then one process gives the drafts to the
teacher (`add_features.py`), which needs all accelerators at once.
"""

import dataclasses
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrd_jax.data.records import TextKind

DRAFTS_PER_SHARD = 16  # some ten seconds of a worker, if they are meshes


@dataclasses.dataclass(frozen=True)
class Text:
  """One text of a draft.

  Attributes:
    text: The text.
    kind: Where it comes from.
    prompted: Whether its feature is the mean over prompts that name it, as is
      usual for names, instead of that of the plain text.
    view: The image that it describes, or -1: none in particular.
  """

  text: str
  kind: TextKind
  prompted: bool = False
  view: int = -1


@dataclasses.dataclass(frozen=True)
class Draft:
  """One shape without its features.

  Attributes:
    split: Split that it is for.
    id: Unique name within the dataset.
    file: Where it comes from.
    xyz: (N, 3) float32, y up.
    rgb: (N, 3) float32 in [0, 1].
    images: Encoded images, or paths of images.
    texts: What is said of it.
    dataset: Name of the source collection.
    label: Class index, or -1.
  """

  split: str
  id: str
  file: str
  xyz: np.ndarray
  rgb: np.ndarray
  images: Sequence[bytes] | Sequence[str]
  texts: Sequence[Text]
  dataset: str
  label: int = -1


def to_record(draft: Draft) -> dict[str, Any]:
  """Makes what a `ShardWriter` takes, and `serialize_draft` bytes of."""
  return {"draft": draft, "texts": [t.text for t in draft.texts]}


def serialize_draft(record: Mapping[str, Any]) -> bytes:
  """Makes the bytes of a draft: arrays as numpy writes them, then JSON."""
  draft: Draft = record["draft"]
  arrays = ("xyz", "rgb", "images")
  rest = {k: v for k, v in vars(draft).items() if k not in arrays}
  rest["texts"] = [dataclasses.asdict(text) for text in draft.texts]
  images = [i for i in draft.images if isinstance(i, bytes)]
  if images:
    rest["lengths"] = [len(image) for image in images]
  else:
    rest["paths"] = list(draft.images)
  file = io.BytesIO()
  for array in (draft.xyz, draft.rgb, _bytes(b"".join(images))):
    np.save(file, array, allow_pickle=False)
  np.save(file, _bytes(zlib.compress(json.dumps(rest).encode())))
  return file.getvalue()


def read_draft(content: bytes) -> Draft:
  """Reads the draft of which `serialize_draft` made the bytes."""
  file = io.BytesIO(content)
  xyz, rgb, images, rest = (np.load(file, allow_pickle=False) for _ in range(4))
  values = json.loads(zlib.decompress(rest.tobytes()))
  values["texts"] = [
    Text(**text | {"kind": TextKind(text["kind"])}) for text in values["texts"]
  ]
  if (lengths := values.pop("lengths", None)) is not None:
    ends = np.cumsum(lengths)[:-1]
    values["images"] = [part.tobytes() for part in np.split(images, ends)]
  else:
    values["images"] = values.pop("paths")
  return Draft(xyz=xyz, rgb=rgb, **values)


def _bytes(content: bytes) -> np.ndarray:
  return np.frombuffer(content, np.uint8)
