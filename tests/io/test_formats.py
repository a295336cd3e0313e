"""Finds formats, each a file that nothing else knows of."""

import importlib

from mrd_jax.io.formats import find_formats


def test_a_format_is_one_more_file(tmp_path, monkeypatch):
  package = tmp_path / "some_formats"
  package.mkdir()
  for name, text in (
    ("__init__", ""),
    ("zip", 'SUFFIXES = (".zip",)\ndef read(): ...'),
    ("ascii", 'SUFFIXES = (".txt", ".asc")\ndef read(): ...'),
    ("columns", "a_helper = 1"),
    ("all", 'SUFFIXES = (".txt", ".asc", ".zip")\ndef read_any(): ...'),
  ):
    (package / f"{name}.py").write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  formats = find_formats(importlib.import_module("some_formats"))
  assert [(suffix, module.__name__) for suffix, module in formats.items()] == [
    (".txt", "some_formats.ascii"),
    (".asc", "some_formats.ascii"),
    (".zip", "some_formats.zip"),
  ]
