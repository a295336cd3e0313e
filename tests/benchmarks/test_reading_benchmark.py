"""The benchmark of reading runs, and its baseline is OpenShape's loader."""

import json
import os

import numpy as np
import pytest

from benchmarks import openshape_loader, reading


def test_reading_benchmark_runs(tmp_path):
  args = reading.parse(
    ["--shapes=8", "--points=300", "--embed_dim=16", "--batch=8"]
    + ["--rounds=1", f"--dir={tmp_path}", "--step_ms=1,2.5", "--step_batch=8"]
    + ["--steps=3", "--warm_steps=1"]
  )
  result = json.loads(json.dumps(reading.measure(args)))
  rows = result["rows"]
  assert len(rows) == 7
  assert all(0 < r["low"] <= r["rate"] <= r["high"] for r in rows)
  assert {row["way"]: row["ratio"] for row in rows}[
    ".npy float32, OpenShape's loader"
  ] == 1
  for row in rows:
    for cores, rate in zip(row["cores"], reading.RATES, strict=True):
      assert (cores - 1) * row["rate"] < rate <= cores * row["rate"]
  waits = result["starvation"]
  assert [row["step_ms"] for row in waits] == [1, 2.5]
  assert all(row["next_ms"] > 0 <= row["idle_ms"] for row in waits)
  assert all(0 <= row["share"] < 1 for row in waits)
  lines = reading.tables(result).splitlines()
  assert len(lines) == (2 + 7) + 1 + (2 + 2)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", reading.DTYPES)
def test_the_baseline_does_the_work(tmp_path, dtype):
  openshape_loader.write_npy(tmp_path / dtype, 1, 500, 16, dtype)
  (file,) = (tmp_path / dtype).iterdir()
  sample = openshape_loader.make_sample(0, 500, 16)
  tolerance = 1e-6 if dtype == "float32" else 2e-3
  grey, thumbnails = 0, 0
  dropped = []
  for seed in range(40):
    np.random.seed(seed)
    example = openshape_loader.openshape_example(file)
    assert {v.dtype for v in example.values()} == {np.dtype("float32")}
    xyz, features = example["xyz"], example["features"]
    assert features.shape == (500, 6)
    np.testing.assert_array_equal(features[:, :3], xyz)
    # Dropped points lie on the first; the others are a similarity's image of
    # the sphere that the shape is, so they have one distance from its centre.
    kept = xyz[(xyz != xyz[0]).any(axis=1)].astype(np.float64)
    dropped.append(1 - len(kept) / len(xyz))
    a = np.c_[2 * kept, np.ones(len(kept))]
    if len(kept) > 50:
      solution = np.linalg.lstsq(a, (kept**2).sum(axis=1), rcond=None)[0]
      radius = np.sqrt(solution[3] + (solution[:3] ** 2).sum())
      distance = np.linalg.norm(kept - solution[:3], axis=1)
      np.testing.assert_allclose(distance, radius, atol=2e-3)
      assert 0.7 < radius < 1.25 + 0.01  # its mean is not quite its centre
    if (features[:, 3:] == np.float32(0.4)).all():
      grey += 1
    else:
      np.testing.assert_allclose(
        np.sort(features[:, 3:], axis=0),
        np.sort(sample["rgb"], axis=0),
        atol=1e-3,
      )
    texts = [
      sample["text_feat"][0]["prompt_avg"],
      sample["blip_caption_feat"]["prompt_avg"],
      sample["retrieval_text_feat"][0]["original"],
    ]
    assert any(
      np.allclose(example["text_feat"], text[0], atol=tolerance)
      for text in texts
    )
    images = [sample["thumbnail_feat"], *sample["image_feat"]]
    matches = [
      np.allclose(example["image_feat"], image, atol=tolerance)
      for image in images
    ]
    assert sum(matches) == 1
    thumbnails += matches[0]
  assert 0.3 < np.mean(dropped) < 0.58 and max(dropped) < 0.93
  assert 8 < grey < 32 and 8 < thumbnails < 32


class Clock:
  """Time that passes only in sleep."""

  now = 0.0

  def perf_counter(self) -> float:
    return self.now

  def sleep(self, seconds: float) -> None:
    self.now += seconds


@pytest.mark.parametrize(
  ("reading_ms", "step_ms", "idle_ms"), [(2, 20, 0), (20, 20, 0), (30, 10, 20)]
)
def test_a_device_is_idle_as_long_as_a_batch_takes_longer_than_a_step(
  monkeypatch, reading_ms, step_ms, idle_ms
):
  monkeypatch.setattr(reading, "time", clock := Clock())

  def batches():
    while True:
      clock.sleep(reading_ms / 1e3)
      yield np.zeros(3)

  found = reading.starvation(batches(), step_ms / 1e3, warm=2, steps=8)
  assert found["next_ms"] == pytest.approx(reading_ms)
  assert found["idle_ms"] == pytest.approx(idle_ms, abs=1e-9)
  assert clock.now >= (2 + 8) * max(reading_ms, step_ms) / 1e3


def test_the_warm_steps_do_not_count(monkeypatch):
  monkeypatch.setattr(reading, "time", clock := Clock())

  def batches():
    for n in range(14):  # the first, three to warm up, ten
      clock.sleep(0.5 if n < 4 else 0.02)
      yield np.zeros(3)

  found = reading.starvation(batches(), 0.001, warm=3, steps=10)
  assert found["idle_ms"] == pytest.approx(19)


def test_rotations():
  for axis in range(3):
    r_33 = openshape_loader.rotation(axis, np.pi / 2)
    e_33 = np.eye(3)
    np.testing.assert_allclose(r_33 @ e_33[axis], e_33[axis], atol=1e-15)
    turned = r_33 @ e_33[(axis + 1) % 3]
    np.testing.assert_allclose(turned, e_33[(axis + 2) % 3], atol=1e-15)


def test_pins_every_thread():
  cores = os.sched_getaffinity(0)
  try:
    reading.pin({max(cores)})
    threads = [int(thread) for thread in os.listdir("/proc/self/task")]
    assert all(os.sched_getaffinity(t) == {max(cores)} for t in threads)
  finally:
    reading.pin(cores)
