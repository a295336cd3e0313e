"""Prints: the one place that does, so that nothing of a file is printed raw.

Names, captions and errors come from files that strangers have written.  A
control character in one could clear the screen, title the window or write over
what was said; a mark for text from right to left shows a name that is none.
"""

import re
import sys

# The controls of C0 and C1, those of the direction of text, the separators of
# lines, and the half characters by which Python stands for undecodable bytes.
_UNSAFE = re.compile(
  "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f"
  "\ud800-\udfff]"
)


def printable(text: object) -> str:
  r"""Escapes what is no plain character: "a\x1b" becomes "a\\x1b"."""
  return _UNSAFE.sub(
    lambda found: found[0].encode("unicode_escape").decode(), str(text)
  )


def say(
  *lines: object, error: bool = False, start: str = "", end: str = "\n"
) -> None:
  """Prints lines, each of them `printable`.

  Of a text that has several lines already, whoever made it has escaped the
  names in it.

  Args:
    *lines: What to print.
    error: Whether to print on stderr.
    start: What comes before them, as it is: commands to the terminal.
    end: What comes after them, likewise.
  """
  stream = sys.stderr if error else sys.stdout
  text = "\n".join(map(printable, lines))
  encoding = stream.encoding or "utf-8"
  text = text.encode(encoding, "backslashreplace").decode(encoding)
  print(start + text, end=end, file=stream, flush=True)
