"""Training runs, in this process or their own: start, watch, compare them."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs import debug
from configs.finetune import debug as finetune_debug
from mrd_jax.checkpoint.checksum import by_path
from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.config import finetuning, pretraining
from mrd_jax.data.records import Shape
from mrd_jax.io.files import read_json_lines
from mrd_jax.prepare import procedural
from mrd_jax.prepare.job.dataset_writer import write_dataset

REPOSITORY = Path(__file__).parent.parent
# Seconds to wait for another process, on a machine that is busy.
PATIENCE = 600


NAMES = ("ball", "rod", "sheet")
LABELLED_WIDTH = 4  # of the class features


def make_data(path: Path) -> Path:
  """108 shapes to train on, 54 held out; both widths are small."""
  procedural.generate(
    path, train=108, val=54, num_points=160, num_views=2, embed_dim=32
  )
  return path


def make_shape(index: int, points: int, label: int) -> Shape:
  """A noisy ball, rod or sheet without any feature, as ScanObjectNN has it."""
  rng = np.random.default_rng((index, label))
  xyz = rng.normal(size=(points, 3))
  xyz *= [(1, 1, 1), (0.1, 1, 0.1), (1, 0.1, 1)][label % 3]
  return Shape(
    id=f"shape-{index}",
    xyz=xyz.astype(np.float32),
    rgb=rng.random((points, 3)).astype(np.float32),
    image_feat=np.zeros((0, LABELLED_WIDTH), np.float32),
    image_kind=(),
    texts=(),
    text_feat=np.zeros((0, LABELLED_WIDTH), np.float32),
    text_kind=(),
    label=label,
  )


def write_labelled(path: Path, splits: dict, names: dict) -> Path:
  """A dataset of such shapes; `names`: the classes of the labelled splits."""
  features = {
    split: np.ones((len(classes), LABELLED_WIDTH), np.float32)
    for split, classes in names.items()
  }
  write_dataset(path, "tiny", splits, "nobody", names, features)
  return path


def make_labelled(path: Path, train: int = 48, val: int = 27) -> Path:
  """Labelled shapes to fine-tune on, `val` of them to be tested on."""
  shapes = [make_shape(i, 120 - i % 5, i % 3) for i in range(train + val)]
  return write_labelled(
    path,
    {"train": shapes[:train], "val": shapes[train:]},
    {"train": NAMES, "val": NAMES},
  )


@contextlib.contextmanager
def on_devices(count: int) -> Iterator[None]:
  """What is set up in this block uses the first of this process's devices."""
  devices = jax.devices()[:count]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("jax.devices", lambda: devices)
    yield


def pretraining_config(data_dir: Path | str, **changes) -> pretraining.Config:
  """The debug config with fields changed: `seed=1, train={"steps": 3}`."""
  values = debug.get_config()
  values.data.dir = str(data_dir)
  values.update(changes)
  return pretraining.Config.from_dict(values)


def finetuning_config(data_dir: Path | str, **changes) -> finetuning.Config:
  """The same of fine-tuning."""
  values = finetune_debug.get_config()
  values.data.dir = str(data_dir)
  values.train.batch_size = 16
  values.update(changes)
  return finetuning.Config.from_dict(values)


def pretrained_config(data_dir: Path, **changes) -> pretraining.Config:
  """That of the fixture `pretrained`."""
  return pretraining_config(
    data_dir,
    **{
      "train": {"steps": 12},
      "optimizer": {"ema_decay": 0.9},
      "checkpoint": {"every_steps": 4, "best_metric": "val/top5"},
      "eval": {"every_steps": 4, "relation_gap": ("val",)},
    }
    | changes,
  )


def finetuned_config(data_dir: Path, **changes) -> finetuning.Config:
  """That of the fixture `finetuned`: 60 steps, 20 epochs."""
  return finetuning_config(
    data_dir,
    **{
      "train": {"epochs": 20.0},
      "eval": {"every_epochs": 2.0, "voting": 2},
      "optimizer": {"learning_rate": 3e-3},
    }
    | changes,
  )


def command(data_dir: Path, workdir: Path, *options: str) -> list[str]:
  return [
    sys.executable,
    *("-m", "mrd_jax.main", "--config", "configs/debug.py"),
    *("--workdir", str(workdir), f"--config.data.dir={data_dir}"),
    *options,
  ]


def spawn(
  *arguments: str | Path,
  stdout: Any = subprocess.PIPE,
  stderr: Any = subprocess.PIPE,
  cwd: Path = REPOSITORY,
  new_group: bool = False,
  **variables: str,
) -> subprocess.Popen:
  """Starts a process with more environment variables."""
  return subprocess.Popen(
    list(map(str, arguments)),
    cwd=cwd,
    env=os.environ | variables,
    stdout=stdout,
    stderr=stderr,
    text=True,
    start_new_session=new_group,
  )


def start(
  arguments: list[str], devices: int = 1, **options: Any
) -> subprocess.Popen:
  """Starts a process of ours with so many devices, by `spawn`.

  A pipe of it is at its end only when data workers have ended too.
  """
  return spawn(
    *arguments,
    PYTHONPATH=str(REPOSITORY),
    JAX_PLATFORMS="cpu",
    JAX_NUM_CPU_DEVICES=str(devices),
    JAX_ENABLE_COMPILATION_CACHE=str(devices == 1),
    **options,
  )


def output_of(code: str, hash_seed: int = 0, expect: int = 0) -> str:
  """What a program prints in a fresh process whose hash() has this seed."""
  code = textwrap.dedent(code)
  search = {"PYTHONPATH": os.pathsep.join(sys.path)}
  seed = {"PYTHONHASHSEED": str(hash_seed)}
  process = spawn(sys.executable, "-c", code, **search, **seed)
  printed, errors = process.communicate()
  assert process.returncode == expect, errors
  return printed


def free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def joining(count: int) -> list[list[str]]:
  """The flags by which `count` processes find each other, for each."""
  port = free_port()
  return [
    [
      "--distributed",
      f"--coordinator=localhost:{port}",
      f"--num_processes={count}",
      f"--process_id={i}",
    ]
    for i in range(count)
  ]


def start_together(
  arguments: list[str], count: int, devices: int = 1
) -> list[subprocess.Popen]:
  """The same command in `count` processes that make one run."""
  return [
    start([*arguments, *flags], devices=devices) for flags in joining(count)
  ]


def finish(process: subprocess.Popen, expect: int = 0) -> str:
  """Waits for the end; returns what was said on stderr (and stdout, if one)."""
  out, said = process.communicate(timeout=PATIENCE)
  said = out if said is None else said
  assert process.returncode == expect, said
  return said


def run(arguments: list[str], devices: int = 1, expect: int = 0) -> str:
  return finish(start(arguments, devices), expect)


def wait_until(
  process: subprocess.Popen, happened: Callable[[], object]
) -> None:
  """Waits, as long as the process lives, until `happened` is true."""
  deadline = time.monotonic() + PATIENCE
  while not happened():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline, "it never happened"
    time.sleep(0.01)


def read_until(process: subprocess.Popen, text: str) -> str:
  """The first line on stdout with the text, as long as the process lives."""
  assert process.stdout
  while text not in (line := process.stdout.readline()):
    assert line or process.poll() is None, process.communicate()
  return line


def last_step(workdir: Path) -> int:
  """Which step the newest line of metrics.jsonl is of; 0 without any."""
  metrics = workdir / "metrics.jsonl"
  lines = read_json_lines(metrics) if metrics.exists() else []
  return max((line["step"] for line in lines), default=0)


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
  wait_until(process, lambda: last_step(workdir) >= step)


def worker_of(process: subprocess.Popen) -> int:
  """Its data worker, which multiprocessing has spawned."""
  for stat in Path("/proc").glob("[0-9]*/stat"):
    try:
      parent = int(stat.read_text().rpartition(")")[2].split()[1])
      name = (stat.parent / "cmdline").read_text()
    except OSError:
      continue
    if parent == process.pid and "spawn_main" in name:
      return int(stat.parent.name)
  raise LookupError


def losses(workdir: Path) -> dict[int, float]:
  return {
    line["step"]: line["loss"]
    for line in read_json_lines(workdir / "metrics.jsonl")
    if line["kind"] == "train"
  }


def evaluated(workdir: Path) -> list[int]:
  return [
    line["step"]
    for line in read_json_lines(workdir / "metrics.jsonl")
    if line["kind"] == "eval"
  ]


def last_state(workdir: Path) -> dict[str, np.ndarray]:
  """Every array of the newest checkpoint, by path."""
  _, state = load_on_one_device(workdir / "checkpoints", best_metric=None)
  return by_path(jax.tree.map(np.asarray, state))


def assert_same_run(found: Path, expected: Path) -> None:
  """The same last state, bitwise, and a log as if nothing had happened."""
  states = last_state(found), last_state(expected)
  assert states[0].keys() == states[1].keys()
  for name, value in states[0].items():
    np.testing.assert_array_equal(value, states[1][name], err_msg=name)
  assert losses(found) == losses(expected)
  assert evaluated(found) == evaluated(expected)


def on_disk(folder: Path) -> dict[str, tuple[int, int]]:
  """When each file was changed, and which it is, but for locks."""
  return {
    str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and "lock" not in path.name
  }
