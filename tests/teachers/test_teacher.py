"""The teacher: images and texts in, unit-length features out."""

import io
import json
import re
import time

import jax
import numpy as np
import pytest
from clips import END, WORDS, make_clip, save_shards, write
from hub import COMMITS, serving
from PIL import Image
from safetensors.numpy import load_file

from benchmarks import teacher as benchmark
from mrd_jax.errors import BadInput
from mrd_jax.io.images import to_rgb
from mrd_jax.models.clip import CLIP, SIZES, CLIPSize, TowerSize
from mrd_jax.teachers.clip import ClipTeacher
from mrd_jax.teachers.images import Preprocessor, normalize
from mrd_jax.teachers.towers import _features

TEXTS = [
  "a photo of the red chair",
  "Table,  by day\tand NIGHT",
  "x" * 90,  # longer than the context
  "y " * 25,
  "a table",
  "wörld 42!",
]


def load(folder, **args) -> ClipTeacher:
  args = {"dtype": "float32", "batch_size": 1} | args
  return ClipTeacher.from_pretrained(folder, **args)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return make_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def teacher(folder):
  return load(folder)


def pictures(n=11, seed=0):
  """Arrays of different sizes; smooth, as photos are."""
  rng = np.random.default_rng(seed)
  found = []
  for height, width in rng.integers(20, 90, (n, 2)):
    small = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    size = (int(width), int(height))
    found.append(np.asarray(Image.fromarray(small).resize(size)))
  return found


def assert_near(found, expected, most=1e-5):
  assert found.shape == expected.shape and found.dtype == np.float32
  assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)


def test_equals_hugging_face(folder, teacher):
  torch = pytest.importorskip("torch")
  import transformers

  model = transformers.CLIPModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
  images = pictures()
  tokens = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
  with torch.no_grad():
    image = model.get_image_features(**processor(images, return_tensors="pt"))
    text = model.get_text_features(**tokens)
  for found, expected in (
    (teacher.image_features(images), image.pooler_output),
    (teacher.text_features(TEXTS), text.pooler_output),
  ):
    expected = torch.nn.functional.normalize(expected, dim=-1)
    assert_near(found, expected.numpy())


def test_attributes(folder, teacher, tmp_path):
  assert teacher.embed_dim == 24 and teacher.image_size == 32
  assert re.fullmatch(r"tiny \(sha256 [0-9a-f]{12}\)", teacher.name)
  tensors = load_file(folder / "model.safetensors")
  copy = make_clip(tmp_path / "tiny", seed=1)
  (copy / "model.safetensors").unlink()
  save_shards(copy, tensors, 3)
  again = load(copy)
  assert again.name == teacher.name
  assert again.fingerprint == teacher.fingerprint
  # Whatever decides a feature is in the fingerprint, tensors in the name.
  path = copy / "preprocessor_config.json"
  before = json.loads(path.read_text())
  write(path, before | {"resample": 2})
  other = load(copy)
  assert other.name == teacher.name
  assert other.fingerprint != teacher.fingerprint
  write(path, before)
  other = load(make_clip(copy, vision={"hidden_act": "gelu"}, shards=3))
  assert other.name == teacher.name
  assert other.fingerprint != teacher.fingerprint
  assert load(make_clip(tmp_path / "other", seed=1)).name != teacher.name


@pytest.mark.parametrize("batch_size", [2, 3])
def test_the_batch_size_does_not_matter(folder, teacher, batch_size):
  assert jax.local_device_count() == 8
  other = load(folder, batch_size=batch_size)
  images = pictures(19)
  features = teacher.image_features(images)
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
  assert_near(other.image_features(images), features, 1e-6)
  assert_near(teacher.image_features(images[13:14]), features[13:14], 1e-6)
  texts = [f"{a} {b}" for a in WORDS for b in TEXTS]
  found = teacher.text_features(texts)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
  assert_near(other.text_features(texts), found, 1e-6)
  assert_near(teacher.text_features(texts[7:9]), found[7:9], 1e-6)
  # Neither are they all the same.
  assert (features @ features.T).min() < 0.9 > (found @ found.T).min()


def test_the_batch_is_divided_and_the_model_is_not(teacher):
  towers = teacher._towers
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


def test_bfloat16(folder, teacher):
  rough = load(folder, dtype="bfloat16")
  assert rough.dtype == "bfloat16" and teacher.dtype == "float32"
  for found, expected in (
    (rough.image_features(pictures()), teacher.image_features(pictures())),
    (rough.text_features(TEXTS), teacher.text_features(TEXTS)),
  ):
    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() > 0.999
    assert not np.array_equal(found, expected)


def test_nothing_to_do(teacher):
  for found in (teacher.image_features([]), teacher.text_features(iter([]))):
    assert found.shape == (0, 24) and found.dtype == np.float32


def test_an_iterator_is_drawn_from_as_needed(teacher, monkeypatch):
  images = pictures(3)
  drawn, run = [], teacher._towers.image

  def source():
    for i in range(60):
      drawn.append(i)
      yield images[i % 3]

  seen = []
  monkeypatch.setattr(
    teacher._towers, "image", lambda x: (seen.append(len(drawn)), run(x))[1]
  )
  found = teacher.image_features(source())
  np.testing.assert_allclose(found[:57], found[3:], atol=1e-6)
  assert seen == [24, 32, 40, 48, 56, 60, 60, 60]


def encoded(image, kind, **args):
  file = io.BytesIO()
  image.save(file, kind, **args)
  return file.getvalue()


def test_images_in_any_form(teacher, tmp_path):
  array = pictures(1)[0]
  image = Image.fromarray(array)
  (tmp_path / "a.png").write_bytes(encoded(image, "PNG"))
  forms = [
    array,
    image,
    encoded(image, "PNG"),
    encoded(image, "WEBP", lossless=True),
    tmp_path / "a.png",
    str(tmp_path / "a.png"),
    np.dstack([array, np.full_like(array[..., :1], 255)]),
    np.ascontiguousarray(array[::-1])[::-1],
  ]
  found = teacher.image_features(forms)
  np.testing.assert_allclose(found, np.tile(found[:1], (8, 1)), atol=1e-6)
  jpeg = teacher.image_features([encoded(image, "JPEG", quality=95)])
  assert (jpeg * found[:1]).sum() > 0.99


def test_transparency_is_white():
  alpha = np.zeros((4, 6, 4), np.uint8)
  alpha[..., 0] = 200
  alpha[:, 2:4, 3] = 102
  alpha[:, 4:, 3] = 255
  expected = np.full((4, 6, 3), 255, np.uint8)
  expected[:, 2:4] = (233, 153, 153)
  expected[:, 4:] = (200, 0, 0)
  image = Image.fromarray(alpha)
  for form in (alpha, image, encoded(image, "PNG")):
    np.testing.assert_array_equal(to_rgb(form), expected)

  grey = Image.merge("LA", [image.getchannel("R"), image.getchannel("A")])
  assert np.asarray(to_rgb(grey))[0].tolist() == (
    [[255] * 3] * 2 + [[233] * 3] * 2 + [[200] * 3] * 2
  )
  palette = Image.new("P", (2, 1))
  palette.putpalette([9, 8, 7, 30, 20, 10])
  palette.putpixel((1, 0), 1)
  assert np.asarray(to_rgb(palette)).tolist() == [[[9, 8, 7], [30, 20, 10]]]
  keyed = encoded(palette, "PNG", transparency=0)
  assert np.asarray(to_rgb(keyed)).tolist() == [[[255] * 3, [30, 20, 10]]]


def test_other_modes_and_rotation():
  grey = np.array([[0, 257 * 9, 51200, 65535]], np.uint16)
  expected = [[[0] * 3, [9] * 3, [199] * 3, [255] * 3]]
  image = Image.fromarray(grey)
  for form in (image, encoded(image, "PNG"), image.convert("I")):
    assert np.asarray(to_rgb(form)).tolist() == expected
  small = Image.fromarray((grey // 257).astype(np.uint8))
  assert np.asarray(to_rgb(small)).tolist() == expected
  turned = Image.new("RGB", (4, 2))
  exif = turned.getexif()
  exif[0x0112] = 6  # the camera was held upright
  assert to_rgb(encoded(turned, "JPEG", exif=exif)).size == (2, 4)


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


def test_the_processor_of_newer_versions(folder, teacher, tmp_path):
  """What `CLIPProcessor.save_pretrained` writes: one file, nested."""
  copy = make_clip(tmp_path / "copy")
  path = copy / "preprocessor_config.json"
  values = json.loads(path.read_text()) | {"image_mean": [0.9] * 3}
  path.unlink()
  write(copy / "processor_config.json", {"image_processor": values})
  found = load(copy).image_features(pictures(1))
  assert not np.allclose(found, teacher.image_features(pictures(1)), atol=1e-3)


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
    load(tmp_path)


def test_images_that_cannot_be_read(teacher, tmp_path):
  good = pictures(1)[0]
  png = encoded(Image.fromarray(good), "PNG")
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
      teacher.image_features([good, good, bad, good])
  for one in ("a.png", png):
    with pytest.raises(BadInput, match="give a list of them"):
      teacher.image_features(one)


def test_texts_are_cut_as_hugging_face_does(folder, monkeypatch):
  from transformers import AutoTokenizer

  teacher = load(folder)
  expected = AutoTokenizer.from_pretrained(folder)(TEXTS, truncation=True)
  seen, run = {}, teacher._towers.text

  def text(ids, mask):
    for row, kept in zip(ids, mask, strict=True):
      seen[tuple(row[: kept.sum()])] = len(row)
    return run(ids, mask)

  monkeypatch.setattr(teacher._towers, "text", text)
  teacher.text_features(TEXTS)
  lengths = {tuple(ids): len(ids) for ids in expected.input_ids}
  padded = {
    ids: next(n for n in (16, 32, 77) if length <= n)
    for ids, length in lengths.items()
  }
  assert set(padded.values()) == {16, 32, 77}
  assert padded.items() <= seen.items()
  assert teacher.throughput.truncated == 1
  assert teacher.throughput.texts == 6


def test_texts_that_cannot_be_used(teacher):
  for bad in ("", "  \n", None, 3):
    with pytest.raises(BadInput, match="^text 1 is"):
      teacher.text_features(["a chair", bad])
  with pytest.raises(BadInput, match="give a list"):
    teacher.text_features("a chair")


def test_throughput(folder):
  teacher = load(folder)
  assert str(teacher.throughput) == "0 s of compiling"
  teacher.image_features(pictures(5))
  teacher.image_features(pictures(4))
  teacher.text_features(["x" * 90])
  done = teacher.throughput
  assert (done.images, done.texts, done.truncated) == (9, 1, 1)
  assert done.image_seconds > 0 < done.text_seconds
  assert done.compile_seconds > 0
  assert re.fullmatch(
    r"9 images at [\d,]+/s, 1 texts at [\d,]+/s, 1 texts cut at the context's "
    r"length, \d+ s of compiling",
    str(done),
  )


def test_features_that_are_not_finite(tmp_path):
  folder = make_clip(tmp_path)
  tensors = load_file(folder / "model.safetensors")
  for name in ("visual_projection", "text_projection"):
    tensors[f"{name}.weight"] = np.full_like(tensors[f"{name}.weight"], 3e38)
  save_shards(folder, tensors, 1)
  teacher = load(folder)
  with pytest.raises(BadInput, match=r"^image \d+: its features are NaN"):
    teacher.image_features(pictures(12))
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
def test_refuses_arguments(folder, args, message):
  with pytest.raises(BadInput, match=message):
    load(folder, **args)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("config.json", r"/config\.json does not exist; a model is"),
    ("preprocessor_config.json", r"/preprocessor_config\.json does not exist"),
    ("vocab.json", r"/vocab\.json does not exist, and no tokenizer\.json"),
    ("merges.txt", r"/merges\.txt does not exist, and no tokenizer\.json"),
    ("model.safetensors", r"/model\.safetensors does not exist; a model is"),
  ],
)
def test_a_file_is_missing(tmp_path, name, message):
  folder = make_clip(tmp_path)
  (folder / name).unlink()
  with pytest.raises(BadInput, match=f"^{tmp_path}{message}"):
    load(folder)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("pytorch_model.bin", r"is a pickle.*name a revision.*save_pretrained"),
    ("pytorch_model-00001-of-00002.bin", "is a pickle"),
    ("open_clip_model.safetensors", "has open_clip's own names"),
  ],
)
def test_weights_of_another_kind(tmp_path, name, message):
  folder = make_clip(tmp_path)
  (folder / "model.safetensors").rename(folder / name)
  with pytest.raises(BadInput, match=rf"/model\.safetensors.*{message}"):
    load(folder)
  with pytest.raises(BadInput, match="is a file; name the folder"):
    load(folder / name)


def test_shards(tmp_path):
  folder = make_clip(tmp_path, shards=2)
  index = folder / "model.safetensors.index.json"
  (folder / "model-00002-of-00002.safetensors").unlink()
  with pytest.raises(BadInput, match=r"00002\.safetensors does not exist"):
    load(folder)
  for text in ("{}", "[", '{"weight_map": ["a"]}'):
    index.write_text(text)
    with pytest.raises(BadInput, match=r"index\.json is not an index"):
      load(folder)
  for name in ("../a.safetensors", "a.bin", 1):
    write(index, {"weight_map": {"a": name}})
    with pytest.raises(BadInput, match="no .safetensors file of this folder"):
      load(folder)


def test_a_tokenizer_of_another_model(tmp_path):
  with pytest.raises(BadInput, match="tokenizer has the token .* vocab_size 9"):
    load(make_clip(tmp_path / "a", text={"vocab_size": 9}))
  with pytest.raises(
    BadInput, match="ends a text with token .* eos_token_id 7"
  ):
    load(make_clip(tmp_path / "b", text={"eos_token_id": 7}))
  folder = make_clip(tmp_path / "c")
  (folder / "vocab.json").write_text("{")
  with pytest.raises(BadInput, match="its tokenizer cannot be read"):
    load(folder)
  vocabulary = json.loads((tmp_path / "b" / "vocab.json").read_text())
  assert vocabulary[END] == len(vocabulary) - 1


@pytest.fixture
def hub(tmp_path, monkeypatch):
  with serving(tmp_path / "home", monkeypatch) as hub:
    yield hub


def publish(hub, folder):
  hub.repositories["user/clip", COMMITS["main"]] = folder


@pytest.mark.parametrize("shards", [1, 2])
def test_from_the_hub(hub, tmp_path, teacher, shards):
  publish(hub, make_clip(tmp_path / "clip", shards=shards))
  found = load("user/clip")
  digest = teacher.name.partition(" ")[2]
  assert found.name == f"user/clip@{'a' * 12} {digest}"
  assert found.fingerprint == teacher.fingerprint
  weights = [path for _, path in hub.asked() if path.endswith(".safetensors")]
  # All of one commit, though `main` may have moved meanwhile.
  assert weights and all("/resolve/" + "a" * 40 in path for path in weights)
  hub.asked_ranges()
  load("user/clip", revision="a" * 40)
  assert hub.asked_ranges() == []  # no file is fetched twice
  hub.stop()
  assert load("user/clip").name == found.name


def refused(source, message, **args):
  start = time.monotonic()
  with pytest.raises(BadInput, match=message):
    load(source, **args)
  assert time.monotonic() - start < 10


def test_what_the_hub_does_not_have(hub, tmp_path):
  folder = make_clip(tmp_path / "clip")
  publish(hub, folder)
  refused("user/none", "user/none is neither .* no such repository")
  refused("user/clip", "there is no revision 'v7'", revision="v7")
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  refused(
    "user/clip", r"^user/clip: model\.safetensors does not exist.*refs/pr"
  )
  assert not any(path.endswith(".bin") for _, path in hub.asked())
  (folder / "vocab.json").unlink()
  (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
  hub.repositories["user/new", COMMITS["main"]] = folder
  refused("user/new", r"/vocab\.json does not exist")
  (folder / "config.json").unlink()
  hub.repositories["user/newer", COMMITS["main"]] = folder
  refused("user/newer", r"there is no file config\.json")


def test_no_network(hub, tmp_path):
  publish(hub, make_clip(tmp_path / "clip"))
  hub.failing = 503
  sentence = (
    r"^user/clip is neither a folder nor a CLIP model that could be fetched "
    r"from the Hugging Face hub: \w+: .*503.*; config\.json is not in the cache "
    r"either; where there is a network, fetch config\.json, "
    r"model\.safetensors .* and name that folder instead$"
  )
  refused("user/clip", sentence)
  hub.stop()
  refused("user/clip", sentence.replace("503", "refused"))


def test_half_a_model_in_the_cache(hub, tmp_path):
  folder = make_clip(tmp_path / "clip")
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  publish(hub, folder)
  refused("user/clip", r"model\.safetensors does not exist")
  hub.stop()
  refused(
    "user/clip", r"^user/clip is neither .*; model\.safetensors is not in"
  )


def test_benchmark_runs(monkeypatch):
  tower = TowerSize(16, 2, 2, 32, "gelu", 1e-5)
  tiny = CLIPSize(8, tower, 16, 8, tower, 50, 77, None)
  monkeypatch.setitem(SIZES, "tiny", tiny)
  result = benchmark.measure(
    benchmark.parse(
      ["--size=tiny", "--batch=1", "--batches=1", "--rounds=1"]
      + ["--peak_side=64"]
    )
  )
  assert result["images_per_second"] > 0 < result["texts_per_second"]
  assert abs(result["mean_norm"] - 1) < 1e-5
  assert result["global_batch"] == 8


def test_flops_are_those_that_xla_counts():
  """Of one layer, since XLA counts the body of a scan once."""
  tower = TowerSize(64, 1, 4, 256, "relu", 1e-5)
  size = CLIPSize(8, tower, 64, 8, tower, 50, 77, None)
  model = CLIP(size)
  pixels = np.zeros((1, 3, 64, 64), np.float32)
  ids = np.zeros((1, 77), np.int32)
  params = jax.eval_shape(model.init, jax.random.key(0), pixels, ids, ids)
  run = jax.jit(model.apply, static_argnames="method")
  cost = run.lower(params, pixels, method="image").compile().cost_analysis()
  counted = benchmark.image_flops(size)
  assert counted < cost["flops"] < 1.1 * counted
