"""Files that are written whole or not at all."""

import json

import pytest

from mrd_jax.io.files import write_json


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
