"""Exceptions of which one sentence says all; everything else is a bug."""


class BadInput(ValueError):
  """Input or configuration that cannot be used.

  The message is one sentence for the user: it names the file or the config
  field, says what is wrong with it, and how to mend it.  Command-line entries
  print it without a traceback and exit with code 2.
  """


class RunFailed(RuntimeError):
  """A run that cannot go on; nothing that it saved before is lost.

  The message is one sentence, as that of `BadInput`.  Command-line entries
  print it without a traceback and exit with code 1.
  """


INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it
