"""One shape has one embedding: how clouds and records enter the encoder."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest
from encoders import EMBED_DIM, TINY, cloud, make_encoder
from runs import on_devices
from shapes import NO_IMAGE, NO_TEXT, random_shape

from mrd_jax.data.batches import pad_records
from mrd_jax.data.records import DatasetMeta, encode, record_cloud
from mrd_jax.encoder.embed_split import Embedder
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.encoder.input import few_points, prepare_cloud, prepare_records
from mrd_jax.errors import BadInput
from mrd_jax.parallel import sharding
from mrd_jax.zoo.system import Preparation

POINTS = 300  # the encoder's; of larger clouds a part is drawn
SIZES = (16, 40, 299, 300, 301, 420, 420, 420)
META = DatasetMeta("test", "nobody", EMBED_DIM, 420, 3, 2, {})
SMALL = dataclasses.replace(TINY, depth=1)  # compiles quickly
GOOD = cloud(20)
NONE = np.zeros((0, EMBED_DIM))  # features


def shape_of(index: int, points: int, **changes):
  """A record of any unit, far from the origin."""
  points_N6 = cloud(points, seed=index)
  features = np.random.default_rng(index).normal(size=(3, EMBED_DIM))
  values = {
    "xyz": (7 * points_N6[:, :3] - 4000).astype(np.float32),
    "rgb": points_N6[:, 3:].astype(np.float32),
    "image_feat": features.astype(np.float32),
    "text_feat": features[:2].astype(np.float32),
    "label": index % 3,
  }
  return encode(random_shape(index, **values | changes))


RECORDS = [shape_of(i, n) for i, n in enumerate(SIZES)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
  return make_encoder(architecture=SMALL, num_points=POINTS)


@pytest.fixture(scope="module")
def expected(encoder) -> np.ndarray:
  """What `load_encoder`'s user gets of each record, alone."""
  return np.concatenate([encoder([record_cloud(x)]) for x in RECORDS])


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
  """Float32 embeddings of unit length are within 1e-6 of each other."""
  assert np.linalg.norm(found - expected, axis=1).max() < 1e-6


def apart(found: np.ndarray, expected: np.ndarray) -> bool:
  return bool(np.linalg.norm(found - expected, axis=1).min() > 0.02)


# Records and clouds.


@pytest.mark.parametrize(
  ("rows", "batch_size", "devices", "max_points"),
  [
    (range(8), 8, 1, 420),
    ([5, 2, 7, 0, 1, 3, 6, 4], 2, 1, 420),
    ([3, 3, 7], 8, 2, 500),  # padded by more
    ([6], 1, 1, 420),
  ],
)
def test_a_record_has_the_embedding_of_its_cloud(
  encoder, expected, rows, batch_size, devices, max_points
):
  """In any batch and row, with any padding, on any number of devices."""
  with on_devices(devices):
    mesh = sharding.make_mesh(fsdp=1)
  embedder = Embedder(
    encoder.model.clone(batch_sharding=sharding.batch_sharding(mesh)),
    dataclasses.replace(META, max_points=max_points),
    preparation=encoder.config.preparation,
    batch_size=batch_size,
    threads=2,
    mesh=mesh,
  )
  variables = jax.device_get(encoder.variables)  # they are on one device
  found = embedder(variables, [RECORDS[row] for row in rows], lambda: None)
  assert_near(found.point, expected[list(rows)])
  assert found.label.tolist() == [row % 3 for row in rows]
  assert apart(expected[1:], expected[:-1])


def test_a_cloud_has_one_embedding_in_any_batch(encoder, expected):
  clouds = [record_cloud(record) for record in RECORDS]
  for order, batch_size in (
    (range(8), 8),
    ([1, 6, 0, 2, 5, 7, 4, 3], 3),
    ([7, 7, 7, 2, 2], 4),
  ):
    found = encoder([clouds[row] for row in order], batch_size=batch_size)
    assert_near(found, expected[list(order)])
  # Padded to 512 points instead of 300.
  roomy = dataclasses.replace(
    encoder, config=dataclasses.replace(encoder.config, num_points=1000)
  )
  prepared = [encoder.prepare(points) for points in clouds]
  assert_near(roomy.embed(prepared), expected)


@pytest.mark.parametrize("up_axis", ["y", "z"])
def test_records_enter_point_by_point_as_their_clouds(up_axis):
  batch = pad_records(RECORDS, range(8), META)
  rules = Preparation(POINTS, up_axis, "shuffled")
  shapes = prepare_records(batch, rules)
  assert shapes.points.shape == (8, POINTS, 6)
  assert shapes.points.dtype == np.float32
  assert shapes.num_points.tolist() == [min(n, POINTS) for n in SIZES]
  for points, n, record in zip(
    shapes.points, shapes.num_points, RECORDS, strict=True
  ):
    cloud = prepare_cloud(record_cloud(record), rules)
    np.testing.assert_array_equal(points[:n, 3:], cloud[:, 3:])
    np.testing.assert_allclose(points[:n], cloud, rtol=1e-7, atol=1e-9)
    assert not points[n:].any()


def test_records_bring_their_first_image_and_text():
  records = [
    shape_of(0, 20),
    shape_of(1, 20, **NO_TEXT | {"text_feat": NONE}),
    shape_of(2, 20, **NO_IMAGE | {"image_feat": NONE}),
  ]
  shapes = prepare_records(
    pad_records(records, range(3), META), Preparation(9, "z")
  )
  assert shapes.points.shape == (3, 9, 6)
  assert shapes.has_image.tolist() == [True, True, False]
  assert shapes.has_text.tolist() == [True, False, True]
  assert shapes.label.tolist() == [0, 1, 2]
  for name in ("image", "text"):
    features = getattr(shapes, name)
    assert features.dtype == np.float32
    for row, record in enumerate(records):
      stored = record[f"{name}_feat"]
      first = stored[0] if len(stored) else np.zeros(EMBED_DIM)
      np.testing.assert_array_equal(features[row], first)


def test_a_record_of_which_one_point_is_drawn_becomes_zeros():
  """Which can be no reason to end a run's evaluation."""
  batch = pad_records(RECORDS, range(8), META)
  points = prepare_records(batch, Preparation(1, "z")).points
  assert points.shape == (8, 1, 6)
  assert not points[..., :3].any() and points[..., 3:].any()


# What is up.


@pytest.mark.parametrize("up_axis", ["y", "z"])
def test_a_cloud_that_is_z_up_is_turned(up_axis):
  """The same object has one embedding, its mirror image another."""
  encoder = make_encoder(architecture=SMALL, num_points=POINTS, up_axis=up_axis)
  y_up = cloud(200)
  x, y, z, *rgb = y_up.T
  z_up = np.stack([x, -z, y, *rgb], axis=1)  # stands on the floor, too
  mirrored = np.stack([x, z, y, *rgb], axis=1)
  expected = encoder([y_up])
  assert_near(encoder([z_up], up="z"), expected)
  assert apart(encoder([mirrored], up="z"), expected)
  assert apart(encoder([z_up]), expected)
  np.testing.assert_array_equal(
    encoder.prepare(z_up, up="z", normalize=False),
    encoder.prepare(y_up, normalize=False),
  )


# Colours.


def with_colours(low: float, high: float) -> np.ndarray:
  points = GOOD.copy()
  points[:, 3:] = 0.5
  points[:2, 3:] = [[low] * 3, [high] * 3]
  return points


@pytest.mark.parametrize(
  ("low", "high"), [(0, 1.0000001), (-1e-7, 1), (-0.0099, 1.0099)]
)
def test_colours_are_clipped_within_rounding(encoder, low, high):
  np.testing.assert_array_equal(
    encoder.prepare(with_colours(low, high)),
    encoder.prepare(with_colours(max(low, 0), min(high, 1))),
  )


@pytest.mark.parametrize(
  ("low", "high", "remedy"),
  [
    (0, 1.02, False),
    (-0.02, 1, False),
    (-1, 1, False),
    (-1, 200, False),
    (0, 255, True),
    (0, 2, True),
  ],
)
def test_colours_further_out_are_refused(encoder, low, high, remedy):
  message = rf"from {low} to {high}, must be in \[0, 1\]"
  with pytest.raises(BadInput, match=message) as error:
    encoder.prepare(with_colours(low, high))
  assert ("divide 8-bit colours by 255" in str(error.value)) == remedy


# What is no cloud.

MASKED = np.ma.masked_array(GOOD, mask=np.arange(20)[:, None] == [3] * 6)


@pytest.mark.parametrize(
  ("points", "message"),
  [
    (MASKED, "masked array"),
    (MASKED[:, :3], "masked array"),
    (list(MASKED), "masked array"),
    (np.ma.masked_array(GOOD), "masked array"),  # its user meant something
    (GOOD.astype(str), "but of text"),
    (GOOD.astype(bytes), "but of text"),
    (GOOD.astype(str).tolist(), "but of text"),
    (GOOD.astype(str).astype(object), "but of text"),
    (GOOD > 0.5, "but of booleans"),
    ((GOOD > 0.5).tolist(), "but of booleans"),
    (GOOD * 1j, "but of complex numbers"),
    ([[1, 2, 3], [4, None, 6]], "NaN"),
    ([[1, 2, 3], [4, 10**400, 6]], "not an array of numbers: int too large"),
    (GOOD.astype("m8[s]"), "but of durations"),
    (GOOD.astype("M8[s]"), "but of dates"),
  ],
)
def test_what_numpy_takes_for_numbers_is_refused(encoder, points, message):
  with pytest.raises(BadInput, match=rf"points\[1\]: .*{message}") as error:
    encoder([GOOD, points])
  assert "\n" not in str(error.value)


def test_a_tensor_that_numpy_cannot_take_is_refused_with_its_reason(encoder):
  torch = pytest.importorskip("torch", reason="PyTorch is an extra")
  tensor = torch.tensor(GOOD)
  np.testing.assert_array_equal(encoder.prepare(tensor), encoder.prepare(GOOD))
  for given, message in (
    (tensor.requires_grad_(), "tensor.detach"),
    (torch.tensor(GOOD).bfloat16(), "BFloat16"),
  ):
    with pytest.raises(
      BadInput, match=rf"not an array of numbers: .*{message}"
    ):
      encoder.prepare(given)


def test_a_masked_batch_is_refused(encoder):
  with pytest.raises(BadInput, match=r"points\[0\]: is a masked array"):
    encoder(MASKED[None])


def test_numbers_of_any_type_are_taken(encoder):
  points = np.arange(60).reshape(20, 3)
  prepared = encoder.prepare(points)
  for same in (points.astype(np.uint8), points.astype(object), list(points)):
    np.testing.assert_array_equal(encoder.prepare(same), prepared)


# Few points.


def test_few_points_are_those_that_differ():
  assert few_points(GOOD[:15]) and not few_points(GOOD[:16])
  repeated = np.repeat(GOOD[:15], 40, axis=0)
  assert few_points(repeated)
  assert not few_points(np.append(repeated, GOOD[15:16], axis=0))
  # Colours make no points.
  assert few_points(np.concatenate([GOOD[[0] * 20, :3], GOOD[:, 3:]], axis=1))


def test_few_points_are_said_once(encoder, monkeypatch):
  monkeypatch.setattr(
    Encoder, "embed", lambda self, clouds, batch_size: np.zeros(len(clouds))
  )
  few = np.repeat(GOOD[:3], 9, axis=0)
  with pytest.warns(UserWarning) as said:
    encoder([GOOD, few, GOOD, few])
  (warning,) = said
  assert str(warning.message) == (
    "points[1, 3]: fewer than 16 different points hardly make a shape"
  )
  assert warning.filename == __file__
  with pytest.warns(UserWarning, match=r"points\[0, 1, .*7, \.\.\.\]: fewer"):
    encoder([few] * 9)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    encoder([GOOD])


# PyTorch.


@pytest.mark.parametrize("up_axis", ["y", "z"])
@pytest.mark.parametrize("up", ["y", "z"])
def test_the_export_prepares_alike(up, up_axis):
  pytest.importorskip("torch", reason="parity tests need the torch extra")
  from mrd_jax.convert import pointbert_torch

  config = {"num_points": 200, "up_axis": up_axis, "colour_fill": 0.3}
  rules = Preparation(**config, order="shuffled")
  points = 30 * cloud(400) - 7
  points[:, 3:] = np.linspace(-0.009, 1.009, 1200).reshape(400, 3)
  for given in (points, points[:, :3], points[:99]):
    for normalize in (True, False):
      found = pointbert_torch.prepare(given, config, up, normalize).numpy()
      expected = prepare_cloud(given, rules, up=up, normalize=normalize)
      np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


def test_records_are_as_they_were_for_who_takes_them_so():
  """Not the cube that they are stored in, nor normalised."""
  records = [shape_of(i, 40 + i) for i in range(3)]
  rules = Preparation(30, order="stored", normalized=False)
  batch = pad_records(records, range(4), META)
  found = prepare_records(batch, rules, records)
  for i, record in enumerate(records):
    expected = prepare_cloud(record_cloud(record), rules)
    np.testing.assert_array_equal(found.points[i], expected)
    assert np.abs(expected[:, :3]).max() > 1000
