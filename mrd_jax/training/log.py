"""Tells how a run goes: progress, metrics.jsonl, TensorBoard, W&B.

Only process 0 writes.  Both files are cut back to the restored step when a
run resumes, so that a killed and repeated stretch does not appear twice.
"""

import contextlib
import dataclasses
import importlib.util
import json
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.io import terminal
from mrd_jax.io.files import read_json, read_json_lines, write_json, write_text

_CLEAR = "\r\x1b[2K"  # empties the terminal's last line
EVENTS: Any = event_pb2  # protobuf makes its classes when it is imported
FLUSH_SECONDS = 60  # how often TensorBoard's file is brought to the disk


class MetricsWriter:
  """Writes a run's metrics; on every process but the first, nothing.

  Args:
    workdir: The run's folder.
    config: The run's config.
    num_steps: Length of the run, for the remaining time.
    start_step: Steps already done; later lines of an earlier try are dropped.
    drop_start_evaluation: Whether `start_step` will be evaluated again.
  """

  def __init__(
    self,
    workdir: Path,
    config: Any,
    *,
    num_steps: int,
    start_step: int,
    drop_start_evaluation: bool,
  ):
    self._num_steps = num_steps
    self._batch_size = config.train.batch_size
    self._enabled = jax.process_index() == 0
    self._live = self._enabled and sys.stderr.isatty()
    self._compiled = False
    self._next_line = float(start_step)  # of the few that a log file gets
    self._last_time, self._last_step = time.perf_counter(), start_step
    self._path = workdir / "metrics.jsonl"
    self._mirrors: list[Mirror] = []
    if self._enabled:
      if config.log.wandb:
        self._mirrors.append(WandbRun(config.log.wandb, workdir, config))
      if self._path.exists():
        # Without the lines that the run will write again.
        try:
          kept = [
            json.dumps(line) + "\n"
            for line in read_json_lines(self._path)
            if line["step"] < start_step
            or line["step"] == start_step
            and not (line["kind"] == "eval" and drop_start_evaluation)
          ]
        except (KeyError, TypeError):
          raise BadInput(
            f"{self._path}: a line is of no step; bring the file back from a "
            "copy, or move it elsewhere"
          ) from None
        write_text(self._path, "".join(kept))
      self._file = self._path.open("a")
      self._mirrors.append(Board(workdir / "tensorboard", start_step + 1))

  def train(self, step: int, values: dict[str, float]) -> None:
    """Records the metrics of a training step and shows the progress line."""
    now = time.perf_counter()
    seconds_per_step = (now - self._last_time) / max(step - self._last_step, 1)
    self._last_time, self._last_step = now, step
    rate = self._batch_size / seconds_per_step
    self._write(step, "train", values | {"shapes_per_second": rate})
    if self._enabled:
      speed = ""
      if self._compiled:
        # Not yet for the first stretch, which holds the compilation.
        remaining = (self._num_steps - step) * seconds_per_step
        speed = f"  {duration(remaining)} left  {rate:.0f} shapes/s"
      self._compiled = True
      line = f"step {step}/{self._num_steps}{speed}  {describe_losses(values)}"
      if self._live:
        # A line that wraps could not be written over.
        line = line[: shutil.get_terminal_size().columns - 1]
        terminal.say(line, error=True, start=_CLEAR, end="")
      elif step >= self._next_line:
        self._next_line = step + self._num_steps / 10
        terminal.say(line, error=True)

  def evaluation(self, step: int, values: dict[str, float], text: str) -> None:
    """Records the metrics of an evaluation and shows them as `text`."""
    self._write(step, "eval", values)
    self.say(f"step {step}: {text}")
    # An evaluation is not training time.
    self._last_time, self._last_step = time.perf_counter(), step

  def say(self, *lines: str) -> None:
    """Prints lines of their own."""
    if self._enabled:
      terminal.say(*lines, error=True, start=_CLEAR if self._live else "")

  def close(self) -> None:
    if self._enabled:
      with contextlib.suppress(OSError):  # every line was flushed, or refused
        self._file.close()
    for mirror in self._mirrors:
      mirror.close()

  def _write(self, step: int, kind: str, values: dict[str, float]) -> None:
    if not self._enabled:
      return
    record = {"step": step, "kind": kind, "time": time.time()} | values
    try:
      self._file.write(json.dumps(record) + "\n")
      self._file.flush()
    except OSError as error:
      raise RunFailed(
        f"{self._path} cannot be written ({error.strerror}); mend that and "
        "repeat the command"
      ) from error
    for mirror in self._mirrors:
      mirror.log(step, kind, values)


class Mirror:
  """Has the numbers of metrics.jsonl too, and may fail without consequence.

  The first failure is said in a line, and the training goes on without it.
  """

  name: str
  _run: Any = True

  def log(self, step: int, kind: str, values: dict[str, float]) -> None:
    """Records the values of a step; `kind` is "train" or "eval"."""
    raise NotImplementedError

  def close(self) -> None:
    """Ends it."""
    raise NotImplementedError

  def _attempt(self, call: Callable[[], Any]) -> Any:
    if not self._run:
      return None
    try:
      return call()
    except Exception as error:  # whatever a service's client raises
      self._run = None
      reason = str(error).strip().splitlines() or [type(error).__name__]
      terminal.say(
        f"{self.name} failed, going on without it: {reason[0]}", error=True
      )
      return None


class Board(Mirror):
  """TensorBoard's events, written as they come.

  `SummaryWriter` would write them in a thread, and wait for ever once that has
  died of a full disk.

  Args:
    folder: Gets the file.
    purge_step: From which step on what an earlier try wrote is hidden.
  """

  def __init__(self, folder: Path, purge_step: int):
    self.name = f"TensorBoard in {folder}"

    def start() -> RecordWriter:
      folder.mkdir(parents=True, exist_ok=True)
      name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
      return RecordWriter(str(folder / name))

    self._next_flush = 0.0
    self._run = self._attempt(start)
    begins = EVENTS.SessionLog(status=EVENTS.SessionLog.START)
    self._write(0, file_version="brain.Event:2")
    self._write(purge_step, session_log=begins)

  def log(self, step: int, kind: str, values: dict[str, float]) -> None:
    for name, value in values.items():
      self._write(step, summary=summary.scalar(f"{kind}/{name}", value))

  def close(self) -> None:
    self._attempt(lambda: self._run.close())

  def _write(self, step: int, **content: Any) -> None:
    event = EVENTS.Event(step=step, wall_time=time.time(), **content)

    def write() -> None:
      try:
        self._run.write(event.SerializeToString())
        if time.monotonic() >= self._next_flush:
          self._run.flush()
          self._next_flush = time.monotonic() + FLUSH_SECONDS
      except OSError:
        with contextlib.suppress(OSError):
          self._run.close()
        raise

    self._attempt(write)


class WandbRun(Mirror):
  """A run of Weights & Biases.

  It has the names of metrics.jsonl.  A run that goes on is the same run there,
  by the id in WORKDIR/wandb.json; steps that are done again it already has,
  and keeps as they were.

  Args:
    project: Name of the project.
    workdir: The run's folder; files are kept in its wandb/.
    config: The run's config.
  """

  name = "Weights & Biases"

  def __init__(self, project: str, workdir: Path, config: Any):
    file = workdir / "wandb.json"
    if not file.exists():
      write_json(file, {"id": secrets.token_hex(4)})
    run_id = read_json(file, "remove it")["id"]

    def start():
      import wandb  # an extra

      return wandb.init(
        project=project,
        id=run_id,
        resume="allow",
        name=workdir.absolute().name,
        dir=workdir,
        config=dataclasses.asdict(config),
        # The progress line is not for a log; an end waits for no network.
        settings=wandb.Settings(console="off", finish_timeout=60),
      )

    self._run = self._attempt(start)

  def log(self, step: int, kind: str, values: dict[str, float]) -> None:
    del kind
    self._attempt(lambda: self._run.log(values, step=step))

  def close(self) -> None:
    """Ends the run there, as failed if it is being left by an exception."""
    failed = sys.exc_info()[0] is not None
    self._attempt(lambda: self._run.finish(exit_code=int(failed)))


def check_wandb(project: str) -> None:
  """Raises BadInput if metrics shall go to a project and cannot."""
  if project and not importlib.util.find_spec("wandb"):
    raise BadInput(
      f"config.log.wandb is {project!r}, which needs Weights & Biases: pip "
      "install mrd-jax[wandb], or set it to ''"
    )


def duration(seconds: float) -> str:
  """Writes seconds as "1h02m" or "2m05s"."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def describe_losses(values: dict[str, float]) -> str:
  """Writes the loss, its parts if it has any, and one weight of each pair."""
  if "contrast/image" not in values:
    return f"loss {values['loss']:.3f}"
  contrast = values["contrast/image"] + values["contrast/text"]
  weights = " ".join(
    f"{term} {values[f'weight/{term}']:.2f}"
    for term in ("PP-II", "PI-TI", "PT-IT")  # the other of a pair is 1 - this
    if f"weight/{term}" in values
  )
  return (
    f"loss {values['loss']:.3f} (contrast {contrast:.3f}"
    f" intra {values['intra']:.4f} cross {values['cross']:.4f})  {weights}"
  )
