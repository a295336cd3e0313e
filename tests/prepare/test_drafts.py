"""Drafts on their way from the workers to the teacher."""

import dataclasses

import numpy as np
import pytest

from mrd_jax.data.records import TextKind
from mrd_jax.prepare.job import drafts

TEXTS = (
  drafts.Text("chair", TextKind.RAW, prompted=True),
  drafts.Text("ein Stühlchen, 椅子 🪑", TextKind.BLIP, view=1),
  drafts.Text('"quoted"\nline\t\\', TextKind.RETRIEVAL),
)


def make_draft(images, texts=TEXTS, **others):
  rng = np.random.default_rng(0)
  values = {
    "split": "train",
    "id": "möbel/椅子 1",
    "file": "möbel/椅子 1.glb",
    "xyz": rng.normal(size=(7, 3)).astype(np.float32),
    "rgb": rng.random((7, 3)).astype(np.float32),
    "dataset": "Möbel",
    "label": 3,
  }
  return drafts.Draft(images=images, texts=texts, **values | others)


def assert_same(found, draft):
  for field in dataclasses.fields(drafts.Draft):
    was, now = getattr(draft, field.name), getattr(found, field.name)
    if isinstance(was, np.ndarray):
      assert now.dtype == was.dtype
      np.testing.assert_array_equal(now, was)
    else:
      assert now == (list(was) if isinstance(was, tuple) else was), field.name


@pytest.mark.parametrize(
  "images",
  [
    [b"\x89PNG", b"", bytes(range(256)) * 9],
    [b"one"],
    ["/renders/椅子_r_000.png", "relative b.png"],
    [],
  ],
)
@pytest.mark.parametrize("texts", [TEXTS, ()])
def test_round_trip(images, texts):
  draft = make_draft(images, texts)
  content = drafts.serialize_draft(drafts.to_record(draft))
  found = drafts.read_draft(content)
  assert_same(found, draft)
  assert all(isinstance(text.kind, TextKind) for text in found.texts)
  # The same every time.
  assert drafts.serialize_draft(drafts.to_record(draft)) == content


def test_holds_no_pickle():
  """An array of objects would need one; it is refused when it is written."""
  draft = make_draft([b"x"], xyz=np.array([[{}]], dtype=object))
  with pytest.raises(ValueError, match="allow_pickle"):
    drafts.serialize_draft(drafts.to_record(draft))
