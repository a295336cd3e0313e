"""Prepares images as Hugging Face's processor does."""

import json

import jax
import numpy as np
import pytest
from clips import load_teacher, make_clip, pictures, write

from mrd_jax.errors import BadInput
from mrd_jax.teachers import files
from mrd_jax.teachers.images import Preprocessor, normalize


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"size": {"shortest_edge": 40}, "resample": 2},
    {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    {"do_resize": False},
    {"do_normalize": False},
    {"do_rescale": False, "image_mean": [90, 91, 92], "image_std": [60] * 3},
    {"image_mean": [0.5] * 3, "rescale_factor": 0.5 / 255},
  ],
)
def test_preprocessing_equals_hugging_faces(tmp_path, changes):
  from transformers import CLIPImageProcessorPil

  path = make_clip(tmp_path) / "preprocessor_config.json"
  write(path, json.loads(path.read_text()) | changes)
  preprocessor = Preprocessor(path, 32)
  theirs = CLIPImageProcessorPil.from_pretrained(tmp_path)
  exact = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
  for image in [exact, *pictures(5)]:
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    pixels = preprocessor(image)
    assert pixels.dtype == np.uint8
    args = preprocessor.scale, preprocessor.mean, preprocessor.std
    for kind in (np.asarray, jax.numpy.asarray):
      found = np.asarray(normalize(kind(pixels), *args))
      assert found.dtype == np.float32
      assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_processor_of_newer_versions(clip_teacher, tmp_path):
  """What `CLIPProcessor.save_pretrained` writes: one file, nested."""
  copy = make_clip(tmp_path / "copy")
  path = copy / "preprocessor_config.json"
  values = json.loads(path.read_text()) | {"image_mean": [0.9] * 3}
  path.unlink()
  write(copy / "processor_config.json", {"image_processor": values})
  assert load_teacher(copy).fingerprint != clip_teacher.fingerprint
  np.testing.assert_array_equal(
    Preprocessor(files.preprocessor(copy), 32).mean, np.float32([0.9] * 3)
  )


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ('{"crop_size": 30}', r"images of shape \(3, 30, 30\), .* image_size 32"),
    ('{"image_std": [0, 1, 1]}', "image_std .* must be numbers"),
    ('{"image_mean": [1, 2]}', "cannot be used"),
    ("{", "cannot be used"),
  ],
)
def test_refuses_other_preprocessors(tmp_path, values, message):
  path = make_clip(tmp_path) / "preprocessor_config.json"
  whole = json.loads(path.read_text())
  if values != "{":
    values = json.dumps(whole | json.loads(values))
  path.write_text(values)
  with pytest.raises(BadInput, match=rf"preprocessor_config\.json.*{message}"):
    Preprocessor(path, 32)
