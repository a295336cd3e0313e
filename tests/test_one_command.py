"""One command a place: a second one, or one that is refused, changes nothing."""

import errno
import importlib
import os
import signal
import sys
from pathlib import Path

import pytest
import runs

from mrd_jax.errors import BadInput
from mrd_jax.finetune.train import finetune
from mrd_jax.io.files import held
from mrd_jax.training import set_up

DEBUG = ("--config", "configs/debug.py", "--workdir")
CHECKPOINT = ("--checkpoint", "nowhere")
SEARCH = (*CHECKPOINT, "--index", "nowhere", "--text", "a chair")
# Where each verb has its lock when its output is "out".
VERBS = {
  "main": ("out/lock", *DEBUG, "out"),
  "finetune": ("out/lock", *CHECKPOINT, *DEBUG, "out"),
  "evaluate": (
    "out/lock",
    *CHECKPOINT,
    "--suite",
    "retrieval",
    "--output",
    "out",
  ),
  "ablate": ("out/lock", "--suite", "table4", "--output", "out"),
  "compare": ("out/lock", *CHECKPOINT, "--data", "nowhere", "--output", "out"),
  "inspect": ("out/lock", "nowhere", "--output", "out"),
  "embed": ("out.npz.lock", *CHECKPOINT, "--output", "out.npz"),
  "report": ("report.html.lock", "nowhere", "elsewhere"),
  "convert": ("out.pt.lock", "to-torch", *CHECKPOINT, "--output", "out.pt"),
  "search --json": ("out.json.lock", *SEARCH, "--json", "out.json"),
  "search --sheet": ("out.png.lock", *SEARCH, "--sheet", "out.png"),
  "search": (
    "out.png.lock",
    *SEARCH,
    *("--json", "out.json", "--sheet", "out.png"),
  ),
  "prepare captions": (
    "out/lock",
    *("captions", "--input", "nowhere", "--data", "out"),
  ),
  "prepare procedural": (
    "out.lock",
    *("procedural", "--seed=-1", "--output", "out"),
  ),
}


def module(verb: str):
  verb = verb.partition(" ")[0]
  name = "mrd_jax.main" if verb == "main" else f"mrd_jax.{verb}.__main__"
  return importlib.import_module(name)


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_command_is_refused_at_once(
  verb, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  lock, *arguments = VERBS[verb]
  with held("--output", Path(lock)):
    assert module(verb).main(arguments) == 2
    assert Path(lock).exists()  # it is the other's
  said = capsys.readouterr().err
  assert "another command is at work on" in said and said.count("\n") == 1
  assert not runs.on_disk(tmp_path)
  # Alone it is refused for its input, and leaves nothing, no folder either.
  assert module(verb).main(arguments) == 2
  said = capsys.readouterr().err
  assert "another command" not in said and said.count("\n") == 1
  assert not any(tmp_path.iterdir())


def test_a_call_from_python_is_refused_too(tmp_path):
  """A notebook and a command on one folder, which has no data here."""
  workdir, nowhere = tmp_path / "run", tmp_path / "nowhere"

  def pretrain():
    set_up.train(runs.pretraining_config(nowhere), workdir)

  def fine_tune():
    finetune(runs.finetuning_config(nowhere), "", workdir)

  for call in (pretrain, fine_tune):
    with held("--workdir", workdir / "lock"):
      with pytest.raises(BadInput, match="another command is at work on"):
        call()
      assert not runs.on_disk(tmp_path)
    with pytest.raises(BadInput, match="nowhere"):
      call()
    assert not any(tmp_path.iterdir())


def test_a_killed_command_lets_go(tmp_path, spawn):
  code = """
    import sys, time, pathlib
    from mrd_jax.io.files import held
    with held("--workdir", pathlib.Path(sys.argv[1])):
      print("holds", flush=True)
      time.sleep(600)
  """
  lock = tmp_path / "run" / "lock"
  code = "\n".join(line[4:] for line in code.splitlines())
  process = spawn(
    *(sys.executable, "-c", code, lock), PYTHONPATH=str(runs.REPOSITORY)
  )
  runs.read_until(process, "holds")
  refused = pytest.raises(BadInput, match="--workdir: another command is at")
  with refused, held("--workdir", lock):
    pass
  process.send_signal(signal.SIGKILL)
  process.wait()
  with held("--workdir", lock):
    pass
  assert not lock.parent.exists() or not any(lock.parent.iterdir())


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
  def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

  monkeypatch.setattr("fcntl.flock", flock)
  with held("--workdir", tmp_path / "run" / "lock"):
    pass
  assert "without locks: start no second command" in capsys.readouterr().err


LONG = "x" * 300


@pytest.mark.parametrize("verb", ["main", "inspect"])
@pytest.mark.parametrize(
  ("place", "words"),
  [
    ("file", "a file, or a link to nothing, has this name"),
    ("file/below", "Not a directory"),
    ("dangling", "a file, or a link to nothing, has this name"),
    (LONG, "File name too long"),
    (f"new/{LONG}", "File name too long"),
  ],
)
def test_a_folder_that_cannot_be_is_refused(
  verb, place, words, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  Path("file").touch()
  Path("dangling").symlink_to("nowhere")
  before = sorted(tmp_path.rglob("*"))
  _, *arguments, _ = VERBS[verb]
  assert module(verb).main([*arguments, place]) == 2
  said = capsys.readouterr().err
  assert words in said and said.count("\n") == 1
  assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
  ("verb", "flag"), [("embed", "output"), ("convert", "output")]
)
def test_a_name_too_long_for_its_lock_is_told(verb, flag, capsys):
  """It is the name that is wrong, not its folder, which is there."""
  _, *arguments, place = VERBS[verb]
  name = "x" * (253 - len(place)) + place
  assert module(verb).main([*arguments, name]) == 2
  assert capsys.readouterr().err == (
    f"error: --{flag}: {name} cannot be made or written to (File name too long "
    "with .lock behind it); name another place\n"
  )


@pytest.mark.parametrize("verb", ["main", "inspect", "convert", "embed"])
def test_no_name_is_refused(verb, capsys):
  _, *arguments, _ = VERBS[verb]
  with pytest.raises(SystemExit, match="2"):
    module(verb).main([*arguments, ""])
  assert "expected a name, not ''" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to_is_refused(
  code, tmp_path, monkeypatch
):
  def closed(*_):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(os, "open", closed)
  refused = pytest.raises(BadInput, match=f"written to .{os.strerror(code)}")
  with refused, held("--workdir", tmp_path / "run" / "lock"):
    pass
  assert not any(tmp_path.iterdir())
