"""What fine-tuning draws: farthest points, scales and shifts, votes."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.targets import TARGETS, standing_in
from mrd_jax.config.finetuning import AugmentConfig
from mrd_jax.data import dataset
from mrd_jax.data.batches import pad_records
from mrd_jax.data.examples import Batch
from mrd_jax.finetune.transforms import Drawer, augment, draw_points
from mrd_jax.keys import named
from mrd_jax.parallel import sharding

AUGMENT = AugmentConfig(
  num_points=20, sampled_points=30, scale_low=0.5, scale_high=2.0, shift=0.1
)


def naive_fps(xyz: np.ndarray, count: int) -> list[int]:
  chosen = [0]
  while len(chosen) < count:
    distance = ((xyz[:, None] - xyz[chosen][None]) ** 2).sum(-1).min(axis=1)
    chosen.append(int(distance.argmax()))
  return chosen


def rows_of(xyz: np.ndarray, cloud: np.ndarray) -> list[int]:
  """Which rows of `cloud` the points are."""
  return [int(np.flatnonzero((cloud == p).all(axis=1))[0]) for p in xyz]


def drawing(random: bool):
  """`draw_points` of one cloud."""
  draw = functools.partial(draw_points, config=AUGMENT, random=random, chunk=1)

  @jax.jit
  def one(xyz_N3, num_points, key):
    xyz_BP3, n_B = draw(
      jnp.asarray(xyz_N3)[None], num_points[None], keys_B=key[None]
    )
    return xyz_BP3[0], n_B[0]

  return one


@pytest.mark.parametrize("random", [False, True], ids=["test", "train"])
def test_points_are_drawn_by_farthest_point_sampling(random):
  rng = np.random.default_rng(0)
  cloud = np.zeros((80, 3), np.float32)
  cloud[:60] = rng.normal(size=(60, 3))
  draw = drawing(random)
  order = []
  for seed in range(5):
    key = jax.random.key(seed)
    xyz, n = draw(cloud, jnp.int32(60), key=key)
    rows = rows_of(np.asarray(xyz), cloud)
    assert n == 20 and len(set(rows)) == 20
    # The first of the random order is where sampling starts.
    draws = np.array(jax.random.uniform(named(key, "order"), (80,)))[:60]
    shuffled = np.argsort(draws)
    sampled = shuffled[naive_fps(cloud[shuffled], 30 if random else 20)]
    assert set(rows) <= set(sampled.tolist())
    order.append([sampled.tolist().index(row) for row in rows])
  # In random order, and when random, out of all that were sampled.
  assert all(places != sorted(places) for places in order)
  assert max(map(max, order)) >= 20 if random else set(order[0]) == {*range(20)}


@pytest.mark.parametrize(
  ("stored", "random"), [(12, True), (25, False), (25, True), (40, False)]
)
def test_small_clouds_keep_all_their_points(stored, random):
  cloud = np.random.default_rng(0).normal(size=(stored, 3)).astype(np.float32)
  draw = drawing(random)
  xyz, n = draw(cloud, jnp.int32(12), key=jax.random.key(0))
  assert n == 12 and xyz.shape == (20, 3)
  assert sorted(rows_of(np.asarray(xyz[:12]), cloud)) == [*range(12)]
  assert not xyz[12:].any()


def test_each_axis_has_its_own_scale_and_shift():
  corners = jnp.array([[0.0, 0, 0], [1, 1, 1]])
  keys = jax.random.split(jax.random.key(0), 4000)
  low, high = np.moveaxis(
    np.asarray(jax.vmap(lambda k: augment(corners, AUGMENT, k))(keys)), 1, 0
  )
  for values, (least, most) in ((high - low, (0.5, 2.0)), (low, (-0.1, 0.1))):
    assert values.min() >= least - 1e-6 and values.max() <= most + 1e-6
    np.testing.assert_allclose(values.min(axis=0), least, atol=0.01)
    np.testing.assert_allclose(values.max(axis=0), most, atol=0.01)
    middle = (least + most) / 2
    np.testing.assert_allclose(values.mean(axis=0), middle, atol=0.03)
    independent = np.corrcoef(values.T) - np.eye(3)
    assert np.abs(independent).max() < 0.08


def read_batch(labelled_dir: Path, rows: list[int]) -> Batch:
  meta = dataset.read_meta(labelled_dir)
  source = dataset.open_split(labelled_dir, "train")
  return pad_records([source[row] for row in rows], rows, meta)


def make_drawer(devices: int, swap_yz: bool = False) -> Drawer:
  mesh = sharding.make_mesh(1, jax.devices()[:devices])
  split = sharding.batch_sharding(mesh)
  return Drawer(AUGMENT, swap_yz, 0.4, fps_chunk=3, batch_sharding=split)


def test_test_clouds_are_normalised_grey_and_the_same_in_any_batch(
  labelled_dir,
):
  drawer = make_drawer(devices=2)
  first = read_batch(labelled_dir, [*range(8)])
  other = read_batch(labelled_dir, [9, 5, 10, 11, 12, 13, 2, 14])
  draw = jax.jit(lambda batch: drawer.test(batch, seed=3))
  found, again = draw(first), draw(other)
  np.testing.assert_array_equal(found.points[5], again.points[1])
  np.testing.assert_array_equal(found.points[2], again.points[6])
  assert (np.asarray(found.points[..., 3:]) == np.float32(0.4)).all()
  record = dataset.open_split(labelled_dir, "train")[5]
  xyz = record["xyz"].astype(np.float64)
  xyz -= xyz.mean(axis=0)
  xyz /= np.linalg.norm(xyz, axis=1).max()
  points = np.asarray(found.points[5, :, :3])
  nearest = np.abs(points[:, None] - xyz[None]).max(axis=-1).min(axis=1)
  assert nearest.max() < 1e-6
  # z up exchanges the axes, as pre-training does.
  turned = jax.jit(
    lambda batch: make_drawer(2, swap_yz=True).test(batch, seed=3)
  )(first)
  np.testing.assert_allclose(
    turned.points[..., [0, 2, 1]], found.points[..., :3], atol=1e-6
  )


def test_hopper_draws_with_its_sampling_kernel(labelled_dir):
  batch = read_batch(labelled_dir, [0])
  draw = jax.jit(functools.partial(make_drawer(1).test, seed=0))
  with standing_in(TARGETS["h100"]):
    text = draw.trace(batch).lower(lowering_platforms=("cuda",)).as_text()
  assert "mosaic_gpu" in text


@pytest.mark.slow
def test_draws_do_not_depend_on_the_number_of_devices(labelled_dir):
  batch = read_batch(labelled_dir, [*range(8)])

  @functools.partial(jax.jit, static_argnums=0)
  def draw(devices: int, batch: Batch, step, copy):
    drawer = make_drawer(devices)
    return (
      drawer.train(batch, seed=1, step=step).points,
      drawer.copies(batch, seed=1, copy=copy).points,
    )

  one, two = (jax.device_get(draw(n, batch, 4, 1)) for n in (1, 2))
  for found, expected in zip(two, one, strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-6)
  # Another step, another copy.
  others = jax.device_get(draw(1, batch, 5, 2))
  for found, expected in zip(others, one, strict=True):
    assert np.abs(found - expected).max(axis=(1, 2)).min() > 0.1
  # A copy belongs to a record, whatever batch it comes in.
  moved = jax.device_get(draw(1, read_batch(labelled_dir, [7] * 8), 4, 1))
  np.testing.assert_allclose(moved[1][0], one[1][7], atol=1e-6)
  assert not np.allclose(moved[0][0], one[0][7])
