"""The embeddings that a run leaves: exact, and read with care."""

import json
import re

import numpy as np
import pytest

from mrd_jax.data import dataset
from mrd_jax.encoder.embed_split import (
  SplitEmbeddings,
  read_embeddings,
  save_embeddings,
)
from mrd_jax.errors import BadInput
from mrd_jax.metrics.embeddings import unit
from mrd_jax.metrics.relation_gap import relation_gap
from mrd_jax.metrics.retrieval import retrieval
from mrd_jax.metrics.zero_shot import zero_shot


def test_the_scores_of_a_run_are_those_of_its_embeddings(pretrained, data_dir):
  """To the last bit: what is printed can be computed again."""
  point, image, has_image, text, has_text, label = read_embeddings(
    pretrained / "embeddings" / "val.npz"
  )
  class_CD = unit(dataset.class_features(data_dir, "val"))
  pictures = {"image_ND": image, "has_image_N": has_image}
  scores = {
    **zero_shot(point, label, class_CD),
    **retrieval(point, text, has_text, **pictures, label_N=label),
    **relation_gap(point, image, text, has_image, has_text),
  }
  results = json.loads((pretrained / "results.json").read_text())
  assert {f"val/{k}": x for k, x in scores.items()} == results["metrics"]


def made_up(**changes) -> SplitEmbeddings:
  rng = np.random.default_rng(0)
  features = unit(rng.normal(size=(3, 4, 8))).astype(np.float32)
  has = np.ones(4, bool)
  point, image, text = features
  label = np.arange(4, dtype=np.int32)
  found = SplitEmbeddings(point, image, has, text, has, label)
  return found._replace(**changes)


def test_what_is_written_is_read(tmp_path):
  save_embeddings(tmp_path / "val.npz", made_up())
  found = read_embeddings(tmp_path / "val.npz")
  for array, expected in zip(found, made_up(), strict=True):
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
  ("field", "array", "words"),
  [
    ("point", np.zeros((4, 8), np.float16), "point is float16 of shape (4, 8)"),
    ("point", np.zeros(4, np.float32), "point is float32 of shape (4,), must"),
    ("point", np.float32(1), "point is float32 of shape (), must be float32"),
    ("text", np.zeros((4, 7), np.float32), "text is float32 of shape (4, 7)"),
    ("image", np.zeros((3, 8), np.float32), "image is float32 of shape (3, 8)"),
    ("label", np.zeros(5, np.int32), "label is int32 of shape (5,), must be"),
    ("label", np.zeros(4), "label is float64 of shape (4,), must be int32"),
    ("has_text", np.zeros((4, 8), bool), "of shape (4, 8), must be bool of"),
    ("text", np.full((4, 8), np.nan, np.float32), "text has a value that is"),
  ],
)
def test_another_form_is_one_sentence(tmp_path, field, array, words):
  """Naming the file, the array and what to do."""
  path = tmp_path / "val.npz"
  save_embeddings(path, made_up(**{field: array}))
  with pytest.raises(BadInput, match=re.escape(words)) as refused:
    read_embeddings(path)
  assert str(refused.value).startswith(f"{path} is not what training writes")
  assert str(refused.value).endswith(
    "; remove it and repeat the training command"
  )
