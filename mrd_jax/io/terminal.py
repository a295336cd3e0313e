"""Prints: the one place that does, so that nothing of a file is printed raw.

Names, captions and errors come from files that strangers have written.  A
control character in one could clear the screen, title the window or write over
what was said; a mark for text from right to left shows a name that is none.

And hears its Ctrl-C.
"""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from mrd_jax.errors import INTERRUPTED

GO_ON = "interrupted; repeat the command to go on"

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


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
  """Lets one Ctrl-C end the block wherever it falls.

  It raises KeyboardInterrupt, and again where Python drops that: in a callback
  of the garbage collector, such as JAX's, or in a `__del__`.  During an import
  it ends the process, since a library that is half loaded takes the exception
  for a fault of its own, or aborts.
  """
  if (
    signal.getsignal(signal.SIGINT) != signal.default_int_handler
    or threading.current_thread() != threading.main_thread()
  ):
    yield  # it is somebody else's, or ignored
    return
  dropped = sys.unraisablehook

  def interrupt(number: int, frame: Any) -> None:
    del number
    while frame:
      if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
        say(f"error: {GO_ON}", error=True)
        os._exit(INTERRUPTED)
      frame = frame.f_back
    raise KeyboardInterrupt

  def again(what: Any) -> None:
    if what.exc_type is not KeyboardInterrupt:
      dropped(what)
      return
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()

  signal.signal(signal.SIGINT, interrupt)
  sys.unraisablehook = again
  try:
    yield
  finally:
    sys.unraisablehook = dropped
    signal.signal(signal.SIGINT, signal.default_int_handler)
