"""What a run writes about itself, and what a resumed one keeps of it."""

import contextlib
import errno
import json
import struct

import pytest
from runs import pretraining_config
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from mrd_jax.io.files import read_json_lines
from mrd_jax.training.log import MetricsWriter, duration

VALUES = {
  "loss": 12.3456,
  "contrast/image": 4.5,
  "contrast/text": 4.25,
  "intra": 0.51234,
  "cross": 0.25,
  "weight/PP-II": 0.6,
  "weight/PP-TT": 0.4,
  "weight/PT-IT": 0.456,
  "weight/PT-TI": 0.544,
}


def writing(workdir, *, start_step=0, num_steps=100, wandb=""):
  config = pretraining_config(
    "nowhere", train={"batch_size": 8}, log={"wandb": wandb}
  )
  return contextlib.closing(
    MetricsWriter(
      workdir,
      config,
      num_steps=num_steps,
      start_step=start_step,
      drop_start_evaluation=False,
    )
  )


def write_steps(workdir, steps, start_step=0):
  with writing(workdir, start_step=start_step) as writer:
    for step in steps:
      writer.train(step, VALUES | {"loss": float(step)})


def written(workdir) -> list[dict]:
  """metrics.jsonl as any JSON reader has it: no torn line, no NaN."""

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  text = (workdir / "metrics.jsonl").read_text()
  assert text.endswith("\n")
  return [json.loads(s, parse_constant=refuse) for s in text.splitlines()]


def events(workdir) -> list[event_pb2.Event]:
  """TensorBoard's events, in the order of writing."""
  result = []
  for path in sorted((workdir / "tensorboard").glob("events.out.tfevents.*")):
    data = path.read_bytes()
    while data:  # length, its checksum, message, its checksum
      (length,) = struct.unpack("<Q", data[:8])
      result.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[12 + length + 4 :]
  return result


def test_every_line_is_a_step_with_its_metrics(tmp_path):
  with writing(tmp_path) as writer:
    writer.train(10, VALUES)
    writer.evaluation(10, {"val/top1": 0.25}, "val 25 %")
    # Readable while the run goes on.
    assert len(written(tmp_path)) == 2
  train, evaluation = written(tmp_path)
  assert train.pop("time") > 1e9 and evaluation.pop("time") > 1e9
  assert train.pop("shapes_per_second") > 0
  assert train == {"step": 10, "kind": "train"} | VALUES
  assert evaluation == {"step": 10, "kind": "eval", "val/top1": 0.25}
  assert read_json_lines(tmp_path / "metrics.jsonl") == written(tmp_path)


def test_a_run_drops_the_lines_after_its_start(tmp_path):
  write_steps(tmp_path, [10, 20, 30, 40])
  before = written(tmp_path)
  write_steps(tmp_path, [30, 40], start_step=20)
  after = written(tmp_path)
  assert [line["step"] for line in after] == [10, 20, 30, 40]
  assert after[:2] == before[:2]
  assert after[2]["time"] > before[3]["time"]
  write_steps(tmp_path, [5])
  assert [line["step"] for line in written(tmp_path)] == [5]


@pytest.mark.parametrize("torn", ['{"step": 30, "ki', "{", '{"step": 30}'])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
  write_steps(tmp_path, [10, 20])
  path = tmp_path / "metrics.jsonl"
  whole = written(tmp_path)
  path.write_text(path.read_text() + torn)
  assert read_json_lines(path)[:2] == whole
  write_steps(tmp_path, [30], start_step=20)
  assert [line["step"] for line in written(tmp_path)] == [10, 20, 30]


def test_tensorboard_can_read_the_run(tmp_path):
  with writing(tmp_path) as writer:
    writer.train(10, VALUES)
    writer.evaluation(10, {"val/top1": 0.25}, "val 25 %")
    writer.train(20, VALUES | {"loss": 1.5})
  scalars = {
    (event.step, value.tag): value.simple_value
    for event in events(tmp_path)
    for value in event.summary.value
  }
  assert scalars[10, "train/loss"] == pytest.approx(12.3456)
  assert scalars[20, "train/loss"] == 1.5
  assert scalars[10, "train/contrast/image"] == 4.5
  assert scalars[10, "eval/val/top1"] == 0.25
  assert scalars[10, "train/shapes_per_second"] > 0


def test_tensorboard_is_told_to_forget_what_is_repeated(tmp_path):
  """A START event makes TensorBoard purge events of its step and later."""
  write_steps(tmp_path, [10, 20, 30])
  write_steps(tmp_path, [30], start_step=20)
  starts = [
    event.step
    for event in events(tmp_path)
    if event.session_log.status == event_pb2.SessionLog.START
  ]
  assert 20 < starts[-1] <= 30


@pytest.mark.parametrize("good", [0, 1, 30])
def test_tensorboard_may_fail_alone(tmp_path, monkeypatch, capsys, good):
  """At its start, and later: said once, and the run goes on."""
  write, room = RecordWriter.write, iter(range(good))

  def full(self, event):
    if next(room, None) is None:
      raise OSError(errno.ENOSPC, "No space left on device")
    write(self, event)

  monkeypatch.setattr(RecordWriter, "write", full)
  write_steps(tmp_path, [10, 20, 30])
  said = capsys.readouterr().err
  line = f"TensorBoard in {tmp_path}/tensorboard failed, going on without it: "
  assert said.count("failed, going on") == said.count(line) == 1
  assert [line["step"] for line in written(tmp_path)] == [10, 20, 30]


def test_no_process_but_the_first_writes(tmp_path, monkeypatch, capsys):
  """Nor starts a run of Weights & Biases."""
  monkeypatch.setattr("jax.process_index", lambda: 1)
  with writing(tmp_path, wandb="shapes") as writer:
    writer.train(10, VALUES)
    writer.evaluation(10, {"val/top1": 0.25}, "val 25 %")
    writer.say("hello")
  assert list(tmp_path.iterdir()) == []
  assert capsys.readouterr() == ("", "")


def test_the_progress_line_says_losses_weights_speed_and_time(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr("time.perf_counter", iter([0.0, 60.0, 62.0]).__next__)
  with writing(tmp_path, num_steps=20) as writer:
    writer.train(2, VALUES)
    writer.train(4, VALUES)
  losses = (
    "loss 12.346 (contrast 8.750 intra 0.5123 cross 0.2500)"
    "  PP-II 0.60 PT-IT 0.46"
  )
  assert capsys.readouterr().err.splitlines() == [
    f"step 2/20  {losses}",  # its time is the compilation's
    f"step 4/20  0m16s left  8 shapes/s  {losses}",
  ]


def test_a_loss_without_parts_is_shown_alone(tmp_path, capsys):
  """As in fine-tuning, which knows neither contrast nor relations."""
  with writing(tmp_path, num_steps=20) as writer:
    writer.train(2, {"loss": 1.2344, "accuracy": 0.5})
  assert capsys.readouterr().err == "step 2/20  loss 1.234\n"


def test_durations_are_short():
  assert duration(3 * 3600 + 125) == "3h02m"
  assert duration(125) == "2m05s"
  assert duration(3599.7) == "1h00m"
  assert duration(0) == "0m00s"


def test_a_live_line_fits_the_terminal(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr("sys.stderr.isatty", lambda: True)
  monkeypatch.setenv("COLUMNS", "40")
  with writing(tmp_path) as writer:
    writer.train(10, VALUES)
  line = capsys.readouterr().err.removeprefix("\r\x1b[2K")
  assert line.startswith("step 10/100  loss 12.346")
  assert len(line) < 40


def test_a_log_file_gets_about_ten_progress_lines(tmp_path, capsys):
  write_steps(tmp_path, range(1, 101))
  lines = capsys.readouterr().err.splitlines()
  assert 10 <= len(lines) <= 11
  assert all(line.startswith("step ") and "\r" not in line for line in lines)


def test_evaluations_and_messages_have_lines_of_their_own(tmp_path, capsys):
  with writing(tmp_path) as writer:
    writer.evaluation(30, {"val/top1": 0.256}, "val: top-1 25.6%")
    writer.say("resumed")
  assert capsys.readouterr().err == "step 30: val: top-1 25.6%\nresumed\n"


def test_time_to_evaluate_is_not_training_time(tmp_path, monkeypatch):
  clock = iter([0.0, 10.0, 100.0, 110.0])  # start, train, evaluated, train
  monkeypatch.setattr("time.perf_counter", lambda: next(clock))
  with writing(tmp_path) as writer:
    writer.train(10, VALUES)
    writer.evaluation(10, {"val/top1": 0.25}, "val 25 %")
    writer.train(20, VALUES)
  first, _, second = written(tmp_path)
  # 10 steps of 8 shapes in 10 seconds.
  assert first["shapes_per_second"] == second["shapes_per_second"] == 8
