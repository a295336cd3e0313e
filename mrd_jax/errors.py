"""The one exception that means "the user can mend this"."""


class BadInput(ValueError):
  """Input or configuration that cannot be used.

  The message is one sentence for the user: it names the file or the config
  field, says what is wrong with it, and how to mend it.  Command-line entries
  print it without a traceback and exit with code 2.
  """
