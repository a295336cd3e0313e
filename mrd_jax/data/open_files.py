"""Keeps a bounded number of ArrayRecord files open, for all that read them.

A dataset may have more files than a process may have open: 1,024 is the
default of Linux and of SLURM.
"""

import os
import resource
import threading
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

from array_record.python.array_record_module import ArrayRecordReader

from mrd_jax.io.files import check_shortage

_Readers = OrderedDict[tuple[int, Path], ArrayRecordReader]


class OpenFiles:
  """Reads the records of files; those that were read last stay open.

  All of a process share one bound, and threads may share one of these.  A file
  that is closed while a thread reads it stays open until it is done: its reader
  then has its last reference.

  Attributes:
    most: How many files stay open; None is a quarter of what the process may
      have.
  """

  most: int | None = None
  _readers: ClassVar[_Readers] = OrderedDict()
  # The collector of garbage may call `__del__` where the lock is held.
  _lock = threading.RLock()

  def read(self, path: Path, row: int) -> bytes:
    """Reads one record of a file.

    Raises:
      RunFailed: if no more files can be opened.
      Exception: whatever the library raises if the file is damaged.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    key = id(self), path
    with self._lock:
      reader = self._readers.pop(key, None) or _open(path)
      self._readers[key] = reader
      while len(self._readers) > (self.most or max(1, limit // 4)):
        self._readers.popitem(last=False)
    return reader.read([row])[0]

  def __del__(self):
    with self._lock:
      for key in list(self._readers):
        if key[0] == id(self):
          self._readers.pop(key, None)


def _open(path: Path) -> ArrayRecordReader:
  if not path.is_file():  # a pipe would be waited for
    raise FileNotFoundError(f"{path.name} is not there, or is no file")
  # As the library's own data source does.
  reader = ArrayRecordReader(
    os.fspath(path),
    options="readahead_buffer_size:0",
    file_reader_buffer_size=32768,
  )
  if not reader.ok():
    try:
      path.open("rb").close()
    except OSError as error:
      check_shortage(error)
      raise
  return reader
