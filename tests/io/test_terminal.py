"""What comes from files reaches a terminal as plain characters."""

import io
import sys

import pytest
from planted import inspect
from shapes import random_shape

from mrd_jax import cli
from mrd_jax.errors import BadInput
from mrd_jax.inspect.text_report import text_report
from mrd_jax.io.terminal import printable, say
from mrd_jax.metrics.table import columns, render
from mrd_jax.prepare.job.dataset_writer import write_dataset

# Clears the screen, titles the window, turns the text, writes over the line,
# begins a line, is half of a character, and a C1 control.
HOSTILE = "a\x1b[2J\x1b]0;b\x07\u202egnp.\u2066\rc\ndone\u2028\udcff\x9b0m"
ESCAPED = r"a\x1b[2J\x1b]0;b\x07\u202egnp.\u2066\rc\ndone\u2028\udcff\x9b0m"


def test_controls_are_escaped_and_words_are_not():
  assert printable(HOSTILE) == ESCAPED
  plain = "naïve 椅子 كرسي 👩‍🚀 a\u00a0b \\x1b"
  assert printable(plain) == plain
  assert printable(3) == "3"


def test_lines_and_commands_of_our_own(capsys, monkeypatch):
  say("one", HOSTILE, start="\r\x1b[2K", end="")
  assert capsys.readouterr() == (f"\r\x1b[2Kone\n{ESCAPED}", "")
  say("", 3, error=True)
  assert capsys.readouterr() == ("", "\n3\n")
  # A terminal that cannot show a letter.
  ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  monkeypatch.setattr(sys, "stdout", ascii_only)
  say("é")
  assert ascii_only.buffer.getvalue() == b"\\xe9\n"  # type: ignore


def test_errors_are_one_line(capsys):
  def fail():
    raise BadInput(f"{HOSTILE}: is empty")

  assert cli.exit_code(fail) == 2
  assert capsys.readouterr().err == f"error: {ESCAPED}: is empty\n"


def test_tables_and_reports(tmp_path):
  assert columns([["x", HOSTILE], ["longer", "b"]], "<")[0] == (
    f"x       {ESCAPED}"
  )
  assert ESCAPED in render(["title", "b"], [[HOSTILE, "1"]])
  hostile = HOSTILE.replace("\udcff", "")  # which no record can hold
  shapes = [
    random_shape(i, dataset=hostile, texts=[hostile] * 2) for i in (0, 0)
  ]
  write_dataset(tmp_path / "d", "test", {"train": shapes}, hostile, {}, {})
  text = text_report(inspect(tmp_path / "d").report)
  escaped = ESCAPED.replace("\\udcff", "")
  assert f"teacher: {escaped}; features" in text
  assert f"sources    {escaped} 2" in text
  assert all(printable(line) == line for line in text.split("\n"))


@pytest.mark.parametrize(
  "name", ["\x00", "\x08", "\t", "\x7f", "\u200f", "\u2069"]
)
def test_each_is_escaped(name):
  assert printable(name) == name.encode("unicode_escape").decode()
