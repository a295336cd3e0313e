"""Embeds images and texts: unit-length features, as Hugging Face's."""

import dataclasses
import json
import re

import clips
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from mrd_jax.errors import BadInput
from mrd_jax.teachers.towers import Throughput, _features

TEXTS = [
  "a photo of the red chair",
  "Table,  by day\tand NIGHT",
  "x" * 90,  # longer than the context
  "y " * 25,
  "a table",
  "wörld 42!",
]


def assert_near(found, expected, most=1e-5):
  assert found.shape == expected.shape and found.dtype == np.float32
  assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)


def test_equals_hugging_face(clip_folder, clip_teacher):
  torch = pytest.importorskip("torch")
  import transformers

  model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(clip_folder)
  processor = transformers.CLIPImageProcessorPil.from_pretrained(clip_folder)
  images = clips.pictures()
  tokens = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
  with torch.no_grad():
    image = model.get_image_features(**processor(images, return_tensors="pt"))
    text = model.get_text_features(**tokens)
  for found, expected in (
    (clip_teacher.image_features(images), image.pooler_output),
    (clip_teacher.text_features(TEXTS), text.pooler_output),
  ):
    expected = torch.nn.functional.normalize(expected, dim=-1)
    assert_near(found, expected.numpy())


def test_attributes(clip_folder, clip_teacher, tmp_path):
  assert clip_teacher.embed_dim == 24 and clip_teacher.image_size == 32
  assert re.fullmatch(r"tiny \(sha256 [0-9a-f]{12}\)", clip_teacher.name)
  tensors = load_file(clip_folder / "model.safetensors")
  copy = clips.make_clip(tmp_path / "tiny", seed=1)
  (copy / "model.safetensors").unlink()
  clips.save_shards(copy, tensors, 3)
  again = clips.load_teacher(copy)
  assert again.name == clip_teacher.name
  assert again.fingerprint == clip_teacher.fingerprint
  # Whatever decides a feature is in the fingerprint, tensors in the name.
  path = copy / "preprocessor_config.json"
  before = json.loads(path.read_text())
  clips.write(path, before | {"resample": 2})
  other = clips.load_teacher(copy)
  assert other.name == clip_teacher.name
  assert other.fingerprint != clip_teacher.fingerprint
  clips.write(path, before)
  other = clips.load_teacher(
    clips.make_clip(copy, vision={"hidden_act": "gelu"}, shards=3)
  )
  assert other.name == clip_teacher.name
  assert other.fingerprint != clip_teacher.fingerprint
  other = clips.load_teacher(clips.make_clip(tmp_path / "other", seed=1))
  assert other.name != clip_teacher.name


def test_the_batch_size_does_not_matter(clip_folder, clip_teacher):
  assert jax.local_device_count() == 8
  other = clips.load_teacher(clip_folder, batch_size=2)
  images = clips.pictures(19)
  features = clip_teacher.image_features(images)
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
  assert_near(other.image_features(images), features, 1e-6)
  assert_near(clip_teacher.image_features(images[13:14]), features[13:14], 1e-6)
  texts = [f"{a} {b}" for a in clips.WORDS for b in TEXTS[::4]]
  found = clip_teacher.text_features(texts)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
  assert_near(other.text_features(texts), found, 1e-6)
  assert_near(clip_teacher.text_features(texts[7:9]), found[7:9], 1e-6)
  # Neither are they all the same.
  assert (features @ features.T).min() < 0.9 > (found @ found.T).min()


def test_the_batch_is_divided_and_the_model_is_not(clip_teacher):
  towers = clip_teacher._towers
  assert (towers.devices, towers.batch) == (8, 8)
  found = towers.image(np.zeros((8, 3, 32, 32), np.uint8))
  shards = found.addressable_shards
  assert {shard.data.shape for shard in shards} == {(1, 24)}
  assert len({shard.device for shard in shards}) == 8
  assert all(
    leaf.sharding.is_fully_replicated and len(leaf.devices()) == 8
    for leaf in jax.tree.leaves(towers.params)
  )
  program = _features.lower(
    *(towers.model, "image", towers._pixels, towers._rows, towers.params),
    np.zeros((8, 3, 32, 32), np.uint8),
  ).compile()
  assert "all-gather" not in program.as_text()
  assert "all-reduce" not in program.as_text()


def test_bfloat16(clip_folder, clip_teacher):
  rough = clips.load_teacher(clip_folder, dtype="bfloat16")
  assert rough.dtype == "bfloat16" and clip_teacher.dtype == "float32"
  for tower, inputs in (
    ("image_features", clips.pictures()),
    ("text_features", TEXTS[::4]),
  ):
    found = getattr(rough, tower)(inputs)
    expected = getattr(clip_teacher, tower)(inputs)
    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() > 0.999
    assert not np.array_equal(found, expected)


def test_nothing_to_do(clip_teacher):
  for found in (
    clip_teacher.image_features([]),
    clip_teacher.text_features(iter([])),
  ):
    assert found.shape == (0, 24) and found.dtype == np.float32


def test_an_iterator_is_drawn_from_as_needed(clip_teacher, monkeypatch):
  images = clips.pictures(3)
  drawn, run = [], clip_teacher._towers.image

  def source():
    for i in range(60):
      drawn.append(i)
      yield images[i % 3]

  seen = []
  monkeypatch.setattr(
    clip_teacher._towers,
    "image",
    lambda x: (seen.append(len(drawn)), run(x))[1],
  )
  found = clip_teacher.image_features(source())
  np.testing.assert_allclose(found[:57], found[3:], atol=1e-6)
  assert seen == [24, 32, 40, 48, 56, 60, 60, 60]


def test_images_in_any_form(clip_teacher, tmp_path):
  array = clips.pictures(1)[0]
  image = Image.fromarray(array)
  (tmp_path / "a.png").write_bytes(clips.encoded(image, "PNG"))
  forms = [
    array,
    image,
    clips.encoded(image, "PNG"),
    clips.encoded(image, "WEBP", lossless=True),
    tmp_path / "a.png",
    str(tmp_path / "a.png"),
    np.dstack([array, np.full_like(array[..., :1], 255)]),
    np.ascontiguousarray(array[::-1])[::-1],
  ]
  found = clip_teacher.image_features(forms)
  np.testing.assert_allclose(found, np.tile(found[:1], (8, 1)), atol=1e-6)
  jpeg = clip_teacher.image_features([clips.encoded(image, "JPEG", quality=95)])
  assert (jpeg * found[:1]).sum() > 0.99


def test_images_that_cannot_be_read(clip_teacher, tmp_path):
  good = clips.pictures(1)[0]
  png = clips.encoded(Image.fromarray(good), "PNG")
  (tmp_path / "half.png").write_bytes(png[:-30])
  for bad, message in [
    (b"nothing of this", "image cannot be read .*damaged or not a PNG"),
    (png[:-30], "image cannot be read"),
    (tmp_path / "half.png", r"half\.png cannot be read"),
    (str(tmp_path / "none.png"), r"none\.png cannot be read .*FileNotFound"),
    (good.astype(np.float32), r"array is float32 \(.*\), must be uint8"),
    (good[..., 0], "must be uint8"),
    (good[:0], "image has no pixels"),
    (np.zeros((3, 8, 5), np.uint8), "must be uint8"),
    (Image.new("F", (3, 3)), "float pixels"),
    (Image.fromarray(np.full((2, 2), 70000, np.int32)), "beyond 16 bits"),
    (17, "int is no image"),
  ]:
    with pytest.raises(BadInput, match=rf"^image 2: .*{message}"):
      clip_teacher.image_features([good, good, bad, good])
  for one in ("a.png", png):
    with pytest.raises(BadInput, match="give a list of them"):
      clip_teacher.image_features(one)


def test_texts_are_cut_as_hugging_face_does(
  clip_folder, clip_teacher, monkeypatch
):
  from transformers import AutoTokenizer

  expected = AutoTokenizer.from_pretrained(clip_folder)(TEXTS, truncation=True)
  seen, run = {}, clip_teacher._towers.text

  def text(ids, mask, unit):
    for row, kept in zip(ids, mask, strict=True):
      seen[tuple(row[: kept.sum()])] = len(row)
    return run(ids, mask, unit)

  monkeypatch.setattr(clip_teacher._towers, "text", text)
  clip_teacher.text_features(TEXTS)
  lengths = {tuple(ids): len(ids) for ids in expected.input_ids}
  padded = {
    ids: next(n for n in (16, 32, 77) if length <= n)
    for ids, length in lengths.items()
  }
  assert set(padded.values()) == {16, 32, 77}
  assert padded.items() <= seen.items()


def test_texts_that_cannot_be_used(clip_teacher):
  for bad in ("", "  \n", None, 3):
    with pytest.raises(BadInput, match="^text 1 is"):
      clip_teacher.text_features(["a chair", bad])
  with pytest.raises(BadInput, match="give a list"):
    clip_teacher.text_features("a chair")


def test_features_that_are_not_finite(tmp_path):
  folder = clips.make_clip(tmp_path)
  tensors = load_file(folder / "model.safetensors")
  for name in ("visual_projection", "text_projection"):
    tensors[f"{name}.weight"] = np.full_like(tensors[f"{name}.weight"], 3e38)
  clips.save_shards(folder, tensors, 1)
  teacher = clips.load_teacher(folder)
  with pytest.raises(BadInput, match=r"^image \d+: its features are NaN"):
    teacher.image_features(clips.pictures(12))
  with pytest.raises(BadInput, match=r"^text \d+: its features are NaN"):
    teacher.text_features(TEXTS)


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ({"dtype": "float16"}, "dtype is 'float16', must be"),
    ({"batch_size": 0}, "batch_size is 0, must be at least 1"),
    ({"revision": "v1"}, "revision is 'v1', but .* is a folder"),
  ],
)
def test_refuses_arguments(clip_folder, args, message):
  with pytest.raises(BadInput, match=message):
    clips.load_teacher(clip_folder, **args)


def test_throughput(clip_teacher):
  done = clip_teacher.throughput
  before = dataclasses.replace(done)
  clip_teacher.image_features(clips.pictures(9))
  clip_teacher.text_features(["x" * 90, "short"])
  assert done.images - before.images == 9 and done.texts - before.texts == 2
  assert done.truncated - before.truncated == 1
  assert done.image_seconds > before.image_seconds
  assert done.text_seconds > before.text_seconds
  assert done.compile_seconds > 0
  assert str(Throughput()) == "0 s of compiling"
  assert str(Throughput(9, 0.003, 1, 2.0, 1, 4.4)) == (
    "9 images at 3,000/s, 1 texts at 0/s, 1 texts cut at the context's length, "
    "4 s of compiling"
  )
