"""Damages bytes: flips, overwrites, cuts, repeats, moves and splices them."""

import random
import re
from collections.abc import Callable, Sequence

_LARGEST = 2**20  # bytes that a change may add
_NUMBERS = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**27, 2**31 - 1)
_NUMBERS += (2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
# What stands for another in text: numbers, names, and values of JSON.
_TOKEN = re.compile(rb'-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|"[^"\n]*"|[A-Za-z_]+')
_WORDS = (
  *(b"0", b"-1", b"3", b"1e999", b"-1e999", b"nan", b"Infinity", b"1e30"),
  *(b"4294967296", b"99999999999", b"9" * 30, b"9" * 5000, b"0.5", b"1_0"),
  *(b"null", b"true", b"{}", b"[]", b'""', b'"a"', b"[[1], 2]", b'{"a": 1}'),
  *(b"[" * 100_000, b"\n" * 100_000, b" " * 100_000, b"../../x", b"%s"),
  *(b"", b" ", b"\n", b",", b'"', b"\x00"),
  *(b'"\\ud800"', b'"\\u0000"', b"\xff\xfe", "é²\u2028".encode(), b"[NaN]"),
)

Change = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutate(
  data: bytes, draw: random.Random, others: Sequence[bytes] = ()
) -> bytes:
  """Makes one to four changes.

  Args:
    data: What is changed.
    draw: Decides all.
    others: Further files, of which pieces may come in.
  """
  count = draw.choice((1, 1, 1, 2, 2, 4))
  for _ in range(count):
    data = draw.choice(_CHANGES)(data, draw, [data, *others])
  return data


def _place(data: bytes, draw: random.Random) -> int:
  """Draws a place: half of the time in the first bytes, which say the rest."""
  near = min(len(data), 64) if draw.random() < 0.5 else len(data)
  return draw.randint(0, near)


def _piece(data: bytes, draw: random.Random) -> tuple[int, int]:
  start = _place(data, draw)
  longest = draw.choice((1, 4, 16, 256, len(data)))
  return start, min(len(data), start + draw.randint(1, max(1, longest)))


def _flip(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
  changed = bytearray(data)
  for _ in range(draw.choice((1, 1, 2, 8)) if data else 0):
    changed[_place(data[1:], draw)] ^= 1 << draw.randrange(8)
  return bytes(changed)


def _overwrite(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
  size = draw.choice((1, 2, 4, 8))
  number = draw.choice((*_NUMBERS, draw.randrange(2**64)))
  order = draw.choice(("little", "big"))
  new = (number % 2 ** (8 * size)).to_bytes(size, order)
  start = _place(data, draw)
  return data[:start] + new + data[start + size :]


def _cut(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
  start, end = _piece(data, draw)
  return draw.choice((data[:start], data[start:], data[:start] + data[end:]))


def _repeat(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
  start, end = _piece(data, draw)
  most = _LARGEST // max(1, end - start)
  times = min(most, draw.choice((1, 1, 2, 10, 100, 1000, _LARGEST)))
  return data[:end] + data[start:end] * times + data[end:]


def _splice(data: bytes, draw: random.Random, all: Sequence[bytes]) -> bytes:
  other = draw.choice(all)
  start, end = _piece(other, draw)
  at, to = _piece(data, draw)
  return data[:at] + other[start:end] + data[draw.choice((at, to)) :]


def _word(data: bytes, draw: random.Random, all: Sequence[bytes]) -> bytes:
  """Puts a word in another's place; half of the time the length stays."""
  found = [*_TOKEN.finditer(data)]
  if not found:
    return _overwrite(data, draw, all)
  old = draw.choice(found)
  new = draw.choice((*_WORDS, draw.choice(found)[0]))
  if draw.random() < 0.5:
    new = new.ljust(len(old[0]))
  return data[: old.start()] + new + data[old.end() :]


_CHANGES: tuple[Change, ...] = (
  *(_flip, _overwrite, _cut, _repeat, _splice),
  *(_word, _word),  # each is of many kinds
)
