"""Checkpoints survive damage of their files."""

import contextlib
import dataclasses
import gc
import json
import os
import re
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bounds import full_disk
from damage import array_file, contents, flip

from mrd_jax.checkpoint import read
from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.checkpoint.save import Checkpoints, Restored, SaveFailed
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.parallel.sharding import make_mesh, with_state_sharding


def make_state(step: int) -> TrainState:
  draw = np.random.default_rng(step).normal
  return TrainState(
    step=jnp.int32(step),
    params={
      "encoder": {"kernel": jnp.asarray(draw(size=(32, 24)), "float32")},
      "half": jnp.asarray(draw(size=64), "bfloat16"),
    },
    batch_stats={"mean": jnp.asarray(draw(size=8), "float32")},
    opt_state=({"mu": jnp.asarray(draw(size=(32, 24)), "float32")}, ()),
    average={},
  )


def abstract(fsdp: int = 1) -> TrainState:
  return with_state_sharding(
    make_mesh(fsdp), jax.eval_shape(lambda: make_state(0))
  )


def opened(directory: Path) -> contextlib.closing[Checkpoints]:
  return contextlib.closing(
    Checkpoints(directory, keep_latest=3, keep_best=1, best_metric="val/top1")
  )


def restore_newest(
  directory: Path, wanted: TrainState | None = None
) -> Restored:
  with opened(directory) as checkpoints:
    return checkpoints.restore_newest(wanted or abstract())


def assert_same(found, expected) -> None:
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module", autouse=True)
def light_collections():
  """Each failure collects garbage; what was there before need not be walked."""
  gc.freeze()
  yield
  gc.unfreeze()


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory) -> Path:
  """Steps 1, 2, 3; the second scored best."""
  directory = tmp_path_factory.mktemp("three") / "checkpoints"
  with opened(directory) as checkpoints:
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.5)):
      checkpoints.save(step, make_state(step), {"val/top1": score})
  return directory


@pytest.fixture
def directory(three_steps, tmp_path) -> Path:
  return Path(shutil.copytree(three_steps, tmp_path / "checkpoints"))


DAMAGE = {
  "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
  "emptied": lambda file: os.truncate(file, 0),
  "missing": lambda file: file.unlink(),
  "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_falls_back_or_is_harmless(
  three_steps, tmp_path, damage
):
  """Any without which it is not whole; the run saves the step again."""
  fell_back = []
  files = [
    file.relative_to(three_steps)
    for file in sorted((three_steps / "3").rglob("*"))
    if file.is_file() and file.stat().st_size > 150  # not the marks of success
  ]
  files.append(Path("3/metrics/metrics"))
  for number, file in enumerate(files):
    directory = tmp_path / str(number)
    shutil.copytree(three_steps, directory)
    DAMAGE[damage](directory / file)
    with opened(directory) as checkpoints:
      assert checkpoints.latest_step() == 3
      restored = checkpoints.restore_newest(abstract())
      assert_same(restored.state, make_state(restored.step))
      if restored.step == 3:
        assert not restored.remarks
      else:
        fell_back.append(file.name)
        (remark,) = restored.remarks
        assert re.match(
          r"the checkpoint of step 3 is damaged \(.+\) and now called "
          rf"{directory}/damaged-3; the run goes on from step 2$",
          remark,
        )
        assert not (directory / "3").exists()
        assert (directory / "damaged-3").is_dir()
        checkpoints.save(3, make_state(3), {"val/top1": 0.95})
    with opened(directory) as again:
      assert again.latest_step() == 3
      assert_same(again.restore(3, abstract()), make_state(3))
      assert again.best_step() == (3 if restored.step == 2 else 2)
  assert "_METADATA" in fell_back
  assert "_CHECKPOINT_METADATA" in fell_back
  assert array_file(three_steps / "3").name in fell_back
  if damage != "missing":  # without scores it is evaluated again
    assert "metrics" in fell_back


def test_no_flipped_bit_of_the_arrays_is_loaded(three_steps, tmp_path):
  """Orbax alone loads most of these without a word."""
  size = array_file(three_steps / "3").stat().st_size
  fell_back = 0
  for place in np.random.default_rng(0).integers(size, size=24).tolist():
    directory = tmp_path / str(place)
    shutil.copytree(three_steps, directory, dirs_exist_ok=True)
    flip(array_file(directory / "3"), place, place % 8)
    restored = restore_newest(directory)
    assert_same(restored.state, make_state(restored.step))
    fell_back += restored.step == 2
  assert fell_back > 12


def test_the_checksum_names_the_array(directory):
  """A damaged record of the checksums is told from damaged arrays by nobody."""
  file = directory / "3" / "_CHECKPOINT_METADATA"
  text = file.read_text()
  digit = re.search(r'"params/half": (\d)', text)
  assert digit
  other = str(int(digit[1]) % 9 + 1)
  file.write_text(text[: digit.start(1)] + other + text[digit.end(1) :])
  (remark,) = restore_newest(directory).remarks
  assert "(the checksum of params/half is not what was saved)" in remark


def test_an_array_that_is_no_longer_listed_is_missed(directory):
  """What reads some of the arrays would not ask for it."""
  file = directory / "3" / "state" / "_METADATA"
  values = json.loads(file.read_text())
  del values["tree_metadata"]["('params', 'half')"]
  file.write_text(json.dumps(values))
  for wanted in ((), ("opt_state",)):
    with pytest.raises(BadInput, match=r"damaged \(.* lacks params/half\)"):
      read.load_on_one_device(directory, best_metric=None, without=wanted)


def test_no_flipped_bit_of_the_scores_is_loaded(directory):
  file = directory / "3" / "metrics" / "metrics"
  whole, scores = file.read_bytes(), read.steps_in(directory)[3]
  assert set(scores) == {"val/top1"}
  for bit in range(8 * len(whole)):
    flip(file, bit // 8, bit % 8)
    found = read.steps_in(directory)[3]
    assert isinstance(found, ValueError) or found == scores, file.read_text()
    file.write_bytes(whole)
  file.write_text(json.dumps(scores | {"val/top1": 0.96}))
  (remark,) = restore_newest(directory).remarks
  assert "(the checksum of its scores is not what was saved)" in remark


def test_several_damaged_ones_are_passed_over(directory):
  array_file(directory / "3").unlink()
  (directory / "2" / "metrics" / "metrics").write_text("{")
  with opened(directory) as checkpoints:
    restored = checkpoints.restore_newest(abstract())
    assert checkpoints.best_step() == restored.step == 1
  assert_same(restored.state, make_state(1))
  steps = [re.search(r"step (\d)", remark)[1] for remark in restored.remarks]
  assert steps == ["3", "2"]
  names = sorted(path.name for path in directory.iterdir())
  assert names == ["1", "damaged-2", "damaged-3"]


def test_a_step_damaged_twice_is_kept_twice(directory):
  for name in ("damaged-3", "damaged-3-2"):
    array_file(directory / "3").unlink()
    with opened(directory) as checkpoints:
      (remark,) = checkpoints.restore_newest(abstract()).remarks
      assert str(directory / name) in remark
      checkpoints.save(3, make_state(3), None)
    assert (directory / name).is_dir()


def test_when_all_are_damaged_nothing_is_touched(directory):
  for step in "123":
    os.truncate(array_file(directory / step), 9)
  before = contents(directory)
  for _ in range(2):  # also when it is tried again
    with pytest.raises(BadInput) as error:
      restore_newest(directory)
    message = str(error.value)
    assert str(directory) in message and "another --workdir" in message
    assert all(f"step {step}: " in message for step in (1, 2, 3))
    assert contents(directory) == before


def test_a_state_of_other_arrays_is_not_taken_for_damage(directory):
  """Another program's: nothing is renamed, and the array is named."""
  for step in "12":
    shutil.rmtree(directory / step)
  wanted = abstract()
  other = dataclasses.replace(wanted, params={"half": wanted.params["half"]})
  wider = dataclasses.replace(wanted, batch_stats={"mean": wanted.step})
  for state, message in (
    (other, r"params/encoder/kernel is float32 \(32, 24\), .* wants missing"),
    (wider, r"batch_stats/mean is float32 \(8,\), .* wants int32 \(\)"),
  ):
    before = contents(directory)
    with pytest.raises(BadInput, match=message):
      restore_newest(directory, state)
    assert contents(directory) == before


def test_what_a_cut_off_removal_has_left_is_no_checkpoint(directory):
  """A kill can leave any of its files; here all but the one that counts."""
  for step in "12":
    (directory / step / "_CHECKPOINT_METADATA").unlink()
  step, _ = load_on_one_device(directory, best_metric="val/top1")
  assert step == 3 and (directory / "2").exists()  # only read
  with opened(directory) as checkpoints:
    # A command that is refused before it asks for a step changes nothing.
    assert sorted(path.name for path in directory.iterdir()) == [*"123"]
    assert checkpoints.best_step() == 3
    assert sorted(path.name for path in directory.iterdir()) == ["3"]
    checkpoints.save(4, make_state(4), {"val/top1": 0.1})


def test_what_cannot_be_read_now_is_not_taken_for_damage(
  directory, monkeypatch
):
  """A file that cannot be opened (here: a link to itself); a full device."""
  array = array_file(directory / "3")
  content = array.read_bytes()
  array.unlink()
  array.symlink_to(array.name)

  def refused(match: str) -> None:
    before = contents(directory)
    with opened(directory) as checkpoints:
      with pytest.raises(RunFailed, match=match):
        checkpoints.restore_newest(abstract())
      with pytest.raises(RunFailed, match=match):
        checkpoints.restore(3, abstract())
    with pytest.raises(RunFailed, match=match):
      load_on_one_device(directory, best_metric=None)
    assert contents(directory) == before

  refused(r"/3: the checkpoint cannot be read \(.*symbolic links.*may pass")
  array.unlink()
  array.write_bytes(content)

  def full(*args, **kwargs):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  with monkeypatch.context() as patch:
    patch.setattr(read.ocp, "load", full)
    refused("Out of memory")
  assert restore_newest(directory).step == 3


def test_restore_of_one_step_names_the_remedy(directory):
  array_file(directory / "2").unlink()
  with (
    opened(directory) as checkpoints,
    pytest.raises(BadInput, match=r"/2: .*damaged.*there are \[1, 3\]"),
  ):
    checkpoints.restore(2, abstract())
  assert (directory / "2").exists()


@pytest.mark.parametrize(("saved", "restored"), [(1, 4), (4, 1), (8, 2)])
def test_checksums_hold_on_another_layout(tmp_path, saved, restored):
  state = jax.tree.map(
    lambda x, s: jax.device_put(x, s.sharding), make_state(5), abstract(saved)
  )
  with opened(tmp_path) as checkpoints:
    checkpoints.save(5, state, None)
  wanted = abstract(restored)
  found = restore_newest(tmp_path, wanted)
  assert found.step == 5 and not found.remarks
  assert_same(found.state, make_state(5))
  kernels = (x.params["encoder"]["kernel"] for x in (found.state, wanted))
  assert len({kernel.sharding for kernel in kernels}) == 1


def test_one_device_gets_what_it_asks_for(directory):
  step, state = load_on_one_device(directory, best_metric=None)
  assert step == 3
  assert_same(state["opt_state"][0]["mu"], make_state(3).opt_state[0]["mu"])
  assert state["step"].devices() == {jax.local_devices()[0]}
  step, state = load_on_one_device(
    directory, best_metric="val/top1", without=("opt_state",)
  )
  assert step == 2
  assert state.keys() == {"step", "params", "batch_stats", "average"}
  assert_same(state["params"], make_state(2).params)


def test_one_device_refuses_what_is_damaged(directory):
  def refused(best_metric: str | None) -> str:
    before = contents(directory)
    with pytest.raises(BadInput) as error:
      load_on_one_device(directory, best_metric=best_metric)
    assert contents(directory) == before
    return str(error.value)

  place = array_file(directory / "3").stat().st_size // 2
  flip(array_file(directory / "3"), place)
  message = refused(None)
  assert message.startswith(f"{directory}/3: the checkpoint is damaged (")
  assert "move it elsewhere to use another (there are [1, 2])" in message
  assert load_on_one_device(directory, best_metric="val/top1")[0] == 2
  # The damaged score might have been the best.
  (directory / "1" / "metrics" / "metrics").write_text("")
  assert message.replace("/3:", "/1:")[:40] == refused("val/top1")[:40]
  shutil.rmtree(directory / "1")
  shutil.rmtree(directory / "2")
  assert "bring it back from a copy" in refused(None)


def test_one_device_does_not_read_what_it_does_not_want(directory):
  """A run's optimizer state is most of it."""

  def load():
    return load_on_one_device(
      directory, best_metric=None, without=("opt_state",)
    )

  before = load()
  # The only place that knows of it but for the arrays themselves.
  file = directory / "3" / "_CHECKPOINT_METADATA"
  text = file.read_text()
  file.write_text(re.sub(r'(?<="opt_state/0/mu": )\d+', "7", text))
  assert_same(load(), before)
  with pytest.raises(BadInput, match="checksum of opt_state/0/mu"):
    load_on_one_device(directory, best_metric=None)


def test_a_failed_save_is_one_sentence(directory, monkeypatch):
  def full(*args, **kwargs):
    try:
      raise OSError(28, "No space left on device")
    except OSError as error:
      raise RuntimeError("a long story\nof many lines") from error

  monkeypatch.setattr(read.ocp.training.Checkpointer, "save_async", full)
  with opened(directory) as checkpoints, pytest.raises(SaveFailed) as error:
    checkpoints.save(4, make_state(4), None)
  assert str(error.value) == (
    f"the checkpoint of step 4 could not be saved in {directory} ([Errno 28] "
    "No space left on device); mend that and repeat the command, which goes on "
    "from step 3"
  )


def test_a_save_that_fails_is_known_before_the_next(directory):
  failed = pytest.raises(SaveFailed, match="step 4 .*too large.*from step 3")
  with failed, opened(directory) as checkpoints, full_disk(1000):
    checkpoints.save(4, make_state(4), None)
    while True:
      checkpoints.check()
      time.sleep(0.01)
