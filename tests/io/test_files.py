"""Files that are written whole or not at all."""

import errno
import json
import os
import re

import pytest

from mrd_jax.cli import exit_code
from mrd_jax.errors import BadInput
from mrd_jax.io.files import (
  LOCK,
  held,
  read_json,
  read_json_lines,
  replacing,
  write_json,
)


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "results.json"
  write_json(path, {"a": [1, 2]})
  assert json.loads(path.read_text()) == {"a": [1, 2]}
  with pytest.raises(TypeError):
    write_json(path, {"a": object()})

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
      write_json(path, {"b": 3})
  assert json.loads(path.read_text()) == {"a": [1, 2]}
  write_json(path, {"b": 3})
  assert json.loads(path.read_text()) == {"b": 3}
  assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_json_that_no_parser_bears(tmp_path):
  path = tmp_path / "a.json"
  path.write_text("[" * 100_000)
  with pytest.raises(
    BadInput, match=r"a\.json: is not JSON .nested too deeply"
  ):
    read_json(path)
  # What a kill tore may be any bytes.
  for torn in (b'{"a": "\xc3', b"[" * 100_000, b"1"):
    path.write_bytes(b'{"a": 1}\n' + torn)
    assert read_json_lines(path) == [{"a": 1}]


def test_a_pipe_is_not_waited_for(tmp_path):
  pipe = tmp_path / "a.json"
  os.mkfifo(pipe)
  with pytest.raises(BadInput, match=r"a\.json: is no file; fetch it again$"):
    read_json(pipe)
  os.mkfifo(tmp_path / LOCK)
  refused = pytest.raises(BadInput, match="cannot be made or written to")
  with refused, held("--output", tmp_path / LOCK):
    pass


def closing_fails() -> None:
  """As NumPy's archive, which cannot be closed while a write of it fails."""
  try:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  finally:
    raise ValueError("Can't close the ZIP file")


def library_fails() -> None:
  raise RuntimeError(f"write() failed: {os.strerror(errno.EDQUOT)}; at byte 0")


@pytest.mark.parametrize("fails", [closing_fails, library_fails])
def test_a_full_disk_names_the_file(tmp_path, capsys, fails):
  def run() -> int:
    with replacing(tmp_path / "all.npz"):
      fails()
    return 0

  assert exit_code(run) == 2
  said = capsys.readouterr().err
  assert re.match(r"error: \[Errno \d+\] .*: '.*/all\.npz'\n$", said)
  # Also where no file of ours is being written; a bug stays one.
  assert exit_code(fails) == 2
  assert capsys.readouterr().err.count("\n") == 1
  with pytest.raises(ZeroDivisionError):
    exit_code(lambda: 1 // 0)
