"""`Encoder`: what users call.  Its files are in test_model_folder.py."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import EMBED_DIM, TINY, cloud, make_config, make_encoder

from mrd_jax.config.pretraining import SIZES
from mrd_jax.encoder import encoder as encoder_module
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.encoder.input import shuffled
from mrd_jax.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore:points.*hardly make a shape")

# XLA may round differently in another program: another batch, another padding.
assert_near = functools.partial(np.testing.assert_allclose, atol=1e-6)
# Up to more than `num_points`; fewer than `groups`, than `group_size`.
CLOUDS = [cloud(n, seed=n) for n in (2, 11, 256, 257, 600, 1000)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
  return make_encoder()


def direct(encoder: Encoder, points: np.ndarray, **options) -> np.ndarray:
  """One cloud's embedding by the model itself, without any padding."""
  prepared = encoder.prepare(points, **options)
  apply = jax.jit(encoder.model.apply, static_argnames="train")
  embedding = apply(
    encoder.variables, prepared[None], jnp.array([len(prepared)]), train=False
  )[0]
  return np.asarray(embedding / jnp.linalg.norm(embedding))


def distinct(embeddings: np.ndarray) -> bool:
  """Whether no two rows (B, D) are anywhere near each other."""
  distances = np.linalg.norm(embeddings[:, None] - embeddings, axis=-1)
  return bool((distances + np.eye(len(distances)) > 0.02).all())


# The embedding.


def test_is_the_models_output_at_unit_length(encoder):
  found = encoder(CLOUDS)
  assert isinstance(found, np.ndarray) and found.dtype == np.float32
  assert found.shape == (len(CLOUDS), EMBED_DIM) and distinct(found)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
  for i in (1, 5):
    assert_near(found[i], direct(encoder, CLOUDS[i]))


def test_without_a_projection_it_is_as_wide_as_the_tokens():
  encoder = make_encoder(embed_dim=None)
  points = cloud(50)
  found = encoder(points[None])
  assert found.shape == (1, TINY.width)
  assert_near(found[0], direct(encoder, points))


def test_takes_arrays_and_lists_of_any_kind(encoder):
  points = np.stack([cloud(40, seed=i) for i in range(3)]).astype(np.float32)
  expected = encoder(points)
  for same in (
    jnp.asarray(points),
    points.astype(np.float64),
    list(points),
    tuple(jnp.asarray(points)),
    points.tolist(),
  ):
    np.testing.assert_array_equal(encoder(same), expected)
  assert encoder([]).shape == (0, EMBED_DIM)
  assert encoder(points[:0]).shape == (0, EMBED_DIM)


def test_clouds_without_colours_are_grey(encoder):
  xyz = cloud(80, channels=3)
  grey = np.concatenate([xyz, np.full_like(xyz, 0.3)], axis=1)
  np.testing.assert_array_equal(encoder(xyz[None]), encoder(grey[None]))
  black = np.concatenate([xyz, np.zeros_like(xyz)], axis=1)
  assert distinct(encoder([xyz, black]))
  np.testing.assert_array_equal(
    encoder.prepare(black / [1, 1, 1, 255, 255, 255])[:, 3:], 0
  )
  pairs = encoder([xyz, cloud(90)]), encoder([grey, cloud(90)])
  np.testing.assert_array_equal(*pairs)


# Batches.


def test_does_not_depend_on_the_batch(encoder):
  expected = encoder(CLOUDS)
  for i, points in enumerate(CLOUDS):
    assert_near(encoder([points])[0], expected[i])
  order = np.random.default_rng(0).permutation(np.arange(12) % len(CLOUDS))
  found = encoder([CLOUDS[i] for i in order], batch_size=3)
  assert_near(found, expected[order])


@pytest.mark.slow
@pytest.mark.parametrize("size", ["t", "m"])
def test_published_sizes_do_not_depend_on_the_batch(size):
  """10,000 points: three clouds, one alone, one padded by 6,384 rows."""
  encoder, roomy = (
    make_encoder(architecture=SIZES[size], embed_dim=1280, num_points=n)
    for n in (10_000, 2**14)
  )
  points = [cloud(10_000, seed=i) for i in range(3)]
  found = encoder(points)
  apart = np.abs(found[:, None] - found).max(axis=-1) + np.eye(3)
  assert apart.min() > 1e-3
  np.testing.assert_allclose(encoder(points[1:2]), found[1:2], atol=1e-5)
  np.testing.assert_allclose(roomy(points[1:2]), found[1:2], atol=1e-5)


def test_pads_to_a_few_sizes_of_clouds_and_batches(monkeypatch):
  """256, 512 and num_points; 1, 2, 4 and batch_size."""
  shapes = set()

  def embed(model, variables, points, num_points):
    shapes.add(points.shape[:2])
    return np.zeros((len(points), EMBED_DIM))

  monkeypatch.setattr(encoder_module, "_embed", embed)
  encoder = make_encoder()
  rng = np.random.default_rng(0)
  for _ in range(60):
    lengths = rng.integers(2, 700, size=rng.integers(1, 20))
    encoder([cloud(n) for n in lengths], batch_size=5)
  assert shapes == {(b, n) for b in (1, 2, 4, 5) for n in (256, 512, 600)}
  shapes.clear()
  make_encoder(num_points=100)([cloud(n) for n in (2, 50, 100, 101)])
  assert shapes == {(4, 100)}  # not to 256


def test_compiles_once_for_each_size():
  size = dataclasses.replace(TINY, depth=1, groups=3)  # not compiled yet
  encoder = make_encoder(architecture=size)
  before = encoder_module._embed._cache_size()
  for n, batch in ((2, 1), (9, 2), (256, 1), (257, 1), (512, 1), (100, 2)):
    make_encoder(seed=n, architecture=size)([cloud(n)] * batch)
    encoder([cloud(n)] * batch)
  assert encoder_module._embed._cache_size() == before + 3


# The cloud.


def test_up_is_one_axis_or_the_other():
  y_up = cloud(120)
  in_order = y_up[shuffled(120)].astype(np.float32)
  for axis, column in (("y", 1), ("z", 2)):
    encoder = make_encoder(up_axis=axis)
    prepared = encoder.prepare(y_up, up="y", normalize=False)
    np.testing.assert_array_equal(
      prepared[:, [0, column, 3, 4, 5]], in_order[:, [0, 1, 3, 4, 5]]
    )
    np.testing.assert_array_equal(encoder([y_up], up="y"), encoder([y_up]))


def test_neither_scale_nor_place_matters(encoder):
  points = cloud(200)
  expected = encoder([points])
  for scale, shift in ((1e-3, 0), (1, 7), (250, [-1e3, 0, 30])):
    moved = points.copy()
    moved[:, :3] = scale * moved[:, :3] + shift
    np.testing.assert_allclose(encoder([moved]), expected, atol=1e-5)
  squeezed = points * [1, 0.5, 1, 1, 1, 1]
  assert distinct(np.concatenate([encoder([squeezed]), expected]))


def test_normalised_clouds_fill_the_unit_ball(encoder):
  xyz = encoder.prepare(cloud(200))[:, :3]
  np.testing.assert_allclose(xyz.mean(axis=0), 0, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(xyz, axis=1).max(), 1, rtol=1e-6)


def test_coordinates_can_be_left_as_they_are():
  encoder = make_encoder(up_axis="y")
  points = cloud(200).astype(np.float32)
  np.testing.assert_array_equal(
    encoder.prepare(points, normalize=False), points[shuffled(200)]
  )
  small = points * np.float32([0.1, 0.1, 0.1, 1, 1, 1])
  found = encoder([small], normalize=False)
  assert_near(found[0], direct(encoder, small, normalize=False))
  assert distinct(np.concatenate([found, encoder([small])]))


def test_large_coordinates_keep_their_precision(encoder):
  """Metres of a national grid: float32 holds half metres there."""
  points = cloud(200)
  far = points + [5e6, 5e6, 0, 0, 0, 0]
  expected = encoder([points])
  np.testing.assert_allclose(encoder([far]), expected, atol=1e-5)
  assert np.abs(encoder([far.astype(np.float32)]) - expected).max() > 1e-3


def test_large_clouds_are_sampled(encoder):
  points = cloud(5000)
  prepared = encoder.prepare(points, normalize=False)
  assert prepared.shape == (600, 6) and prepared.dtype == np.float32
  rows = {tuple(row) for row in prepared[:, [0, 2, 1, 3, 4, 5]]}
  assert len(rows) == 600
  assert rows < {tuple(row) for row in points.astype(np.float32)}
  # From all over the cloud, however its points are sorted.
  points = points[np.argsort(points[:, 0])]
  drawn = np.flatnonzero(np.isin(points[:, 0], points[shuffled(5000)[:600], 0]))
  assert np.histogram(drawn, bins=10, range=(0, 5000))[0].min() > 30
  np.testing.assert_array_equal(encoder([points]), encoder([points]))


def test_another_order_of_points_is_nearly_the_same_cloud(encoder):
  """Groups hold the first points of a ball; so order decides, a little."""
  points, *others = [cloud(500, seed=seed) for seed in range(5)]
  permuted = np.random.default_rng(0).permutation(points)
  found = encoder([points, permuted, *others])
  cosines = found[0] @ found[1:].T
  assert 0.97 < cosines[0] < 1 - 1e-4
  assert cosines[0] > cosines[1:].mean()


def test_shuffled_is_one_fixed_permutation():
  for n in (1, 2, 7, 1000):
    assert sorted(shuffled(n)) == list(range(n))
  # Computed by hand with Murmur3's fmix32; fmix32(1) = 0x514e28b7.
  assert shuffled(8).tolist() == [6, 3, 1, 7, 0, 5, 2, 4]


# Precision.


def test_bfloat16_is_close(encoder):
  half = make_encoder(dtype="bfloat16")
  found, expected = half(CLOUDS[:4]), encoder(CLOUDS[:4])
  assert found.dtype == np.float32
  difference = np.abs(found - expected).max(axis=1)
  assert (difference > 1e-5).all() and difference.max() < 0.03
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


# What a user can mend.

GOOD = cloud(20)


@pytest.mark.parametrize(
  ("points", "message"),
  [
    (GOOD, r"points has shape \(20, 6\), must .* points\[None\]"),
    (GOOD[0], r"points has shape \(6,\), must be \(B, N, 3\)"),
    ([GOOD, GOOD[:, :4]], r"points\[1\]: has shape \(20, 4\), must be \(N, 3"),
    ([GOOD[:0]], r"points\[0\]: has shape \(0, 6\)"),
    ([GOOD, GOOD, GOOD[0]], r"points\[2\]: has shape \(6,\)"),
    ([GOOD, [[1, 2, 3], [4, 5]]], r"points\[1\]: is not an array of numbers"),
    (["chair.ply"], r"points\[0\]: is not an array of numbers"),
    ([GOOD, GOOD * np.nan], r"points\[1\]: holds NaN or infinite values"),
    ([np.append(GOOD, [[0, 0, 0, 0, 0, np.inf]], 0)], r"holds NaN or infinite"),
    ([np.ones((9, 3))], r"points\[0\]: all points coincide"),
    ([GOOD[:1]], r"points\[0\]: all points coincide"),
    ([np.append(np.ones((20, 3)), GOOD[:, 3:], 1)], "all points coincide"),
    ([GOOD[:, :3] * 1e-200], "too small or too large"),
    ([GOOD[:, :3] * 1e200], "too small or too large"),
    ([GOOD * 1j], "is not an array of numbers"),
    (5, "no array and no list"),
    ([GOOD * 2], r"colours reach from \d.* to 1\.\d+, .* divide .* by 255"),
    ([GOOD * [1, 1, 1, 1, 1, -1]], r"colours reach from -0\.\d+ to 0\.\d+"),
  ],
)
def test_names_the_cloud_it_cannot_embed(encoder, points, message):
  with pytest.raises(BadInput, match=message):
    encoder(points)


def test_names_the_argument_it_cannot_use(encoder):
  with pytest.raises(BadInput, match="up is 'x', must be 'y' or 'z'"):
    encoder([GOOD], up="x")
  with pytest.raises(BadInput, match="batch_size is 0, must be at least 1"):
    encoder([GOOD], batch_size=0)
  with pytest.raises(BadInput, match="dtype is 'float16', must be 'float32'"):
    Encoder.make(make_config(), {}, "float16")


# The package.


def test_importing_the_package_does_not_load_jax():
  program = """if True:
    import sys
    import mrd_jax
    assert "jax" not in sys.modules
    assert not hasattr(mrd_jax, "nothing")
    from mrd_jax import Encoder, load_encoder
    assert "jax" in sys.modules
    from mrd_jax import encoder
    assert (encoder.Encoder, encoder.load_encoder) == (Encoder, load_encoder)
  """
  subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_lives_on_the_first_device(encoder):
  assert len(jax.devices()) > 1
  for leaf in jax.tree.leaves(encoder.variables):
    assert leaf.devices() == {jax.devices()[0]}
