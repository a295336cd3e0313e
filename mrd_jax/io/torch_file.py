"""Reads PyTorch's files (.pt, .pth) without PyTorch, tensors when asked for.

A file is a pickle, in which each tensor names a storage, and the storages.
Today's form is a zip archive: ROOT/data.pkl, and ROOT/data/KEY a storage.  The
old form, of PyTorch before 1.6, is five pickles (a magic number, a version,
facts about the machine, the content, the storages' keys) and then each storage:
how many numbers it has (8 bytes), and the numbers.  A TorchScript archive has
today's form, and a program beside it, of which nothing is read.

Nothing in a file is executed: see `unpickler`.
"""

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io import torch_script
from mrd_jax.io.archives import (
  SPARE,
  TooCostly,
  check_expanded,
  points_out,
  stored_start,
)
from mrd_jax.io.files import check_shortage
from mrd_jax.io.pickle_cost import check_cost
from mrd_jax.io.torch_tensor import File, OtherTensor, Storage, Tensor
from mrd_jax.io.unpickler import (
  TABLE,
  Allowed,
  Namespace,
  PlainDict,
  Refused,
  Unpickler,
  resolve,
)

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the old form
_OPCODES = 1_000_000  # a tensor takes 40; one takes some microseconds
# Bytes of a zip archive's directory, of 100,000 members; Python makes 15 times
# as much of it.
_DIRECTORY = 2**23
# Globals that become their own names, as plain texts: storages, dtypes, ways to
# quantise.
_TEXT = re.compile(
  r"torch\.(\w+Storage|storage\.UntypedStorage|Tensor|nn\.parameter\.Parameter"
  r"|bool|(b?float|u?int|qu?int|complex)\d\w*|per_(tensor|channel)_\w+)"
)


def read(path: str | os.PathLike[str]) -> Any:
  """Reads the content of a PyTorch file, without its tensors' numbers.

  Args:
    path: A .pt or .pth file, of today's form or the old one.

  Returns:
    Nested dicts, lists and plain values, with a `Tensor` for every dense tensor
    of real numbers and an `OtherTensor` for every other one.  An `OrderedDict`,
    a `Counter` and an `argparse.Namespace` are plain dicts, NumPy's numbers and
    arrays are NumPy's, dtypes, devices and paths are texts.  Of a TorchScript archive
    the state dict.

  Raises:
    BadInput: naming the file, if it is missing, damaged, asks for any other
      global, or would take far more memory or time than its size says.
  """
  path = Path(path)
  try:
    # A pipe is not waited for.
    with open(
      path,
      "rb",
      opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK),
    ) as stream:
      in_zip = stream.read(4) == b"PK\3\4"
      stream.seek(0)
      file = File(path, stream)
      content = (_read_zip if in_zip else _read_old)(stream, file)
    if isinstance(content, torch_script.Module):
      content = torch_script.state_dict(content, file.size)
    content = resolve(content, {})
    _name_tensors(content, file.size)
    return content
  except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
    raise BadInput(f"{path} cannot be read: {error.strerror}") from error
  except TooCostly as error:
    raise BadInput(
      f"{path} is {error}; do not trust where it came from"
    ) from None
  except Refused as error:
    raise BadInput(f"{path} is {error}") from None
  except Exception as error:  # what damage leads to is anything
    check_shortage(error)
    raise BadInput(
      f"{path} cannot be read as a PyTorch file; it is damaged or of another "
      "kind, fetch or export it again"
    ) from error


class _Unpickler(Unpickler):
  """Reads the pickle of a content; asks a function for storages."""

  def __init__(self, stream: BinaryIO, file: File, find_storage: Any = None):
    super().__init__(stream, file.size, _TABLE)
    self._find_storage = find_storage
    self.storages: dict[str, Storage] = {}

  def refusal(self, module: str, name: str) -> Refused:
    asked = re.sub(r"[^\w.]", "?", f"{module}.{name}")[:100]
    return Refused(
      f"refused, nothing in it was executed: it holds {asked}, which is neither "
      "a tensor nor a plain value; ask for a file with the state dict alone"
    )

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("argparse", "Namespace"):
      return Namespace
    if module.split(".")[0] == "__torch__":
      return torch_script.Module
    if _TEXT.fullmatch(f"{module}.{name}"):
      return f"{module}.{name}"
    return super().find_class(module, name)

  def persistent_load(self, pid: Any) -> Storage:
    what, name, key, _, count, *rest = pid
    if what != "storage" or any(view is not None for view in rest):
      raise ValueError("no storage, or a part of one: of PyTorch before 0.4")
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
      raise ValueError("a storage without a key or length")
    if key not in self.storages:
      self.storages[key] = self._find_storage(key, name, count)
    storage = self.storages[key]
    if (storage.name, storage.count) != (name, count):
      raise ValueError("a storage of two types or lengths")
    return storage


def _read_zip(stream: BinaryIO, file: File) -> Any:
  """Reads the content of a file in today's form."""
  with zipfile.ZipFile(_Bounded(stream)) as archive:  # type: ignore[arg-type]
    check_expanded(archive, file.size)
    members = sorted(archive.infolist(), key=lambda x: x.header_offset)
    ends = [x.header_offset for x in members[1:]] + [archive.start_dir]
  places: dict[str, tuple[int, zipfile.ZipInfo]] = {}
  for member, end in zip(members, ends, strict=True):
    name = member.filename
    if points_out(name):
      raise Refused(
        f"refused: its member {name!r} points out of the archive; do not trust "
        "where it came from"
      )
    if re.match(r"[^/]*/code/", name):
      continue  # of TorchScript, compressed; never read
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
      raise Refused(
        f"refused: its member {name!r} is compressed or encrypted, which "
        "PyTorch never does; write it anew"
      )
    start = stored_start(stream, member)
    if start + member.file_size > end or name in places:
      raise ValueError("members of the archive over each other, or of one name")
    places[name] = start, member
  (root,) = (
    name.removesuffix("data.pkl")
    for name in places
    if re.fullmatch(r"[^/]*/data\.pkl", name)
  )

  def content(name: str) -> bytes:
    start, member = places[f"{root}{name}"]
    return file.read(start, member.file_size, np.dtype(np.uint8)).tobytes()

  order = "<"
  if f"{root}byteorder" in places:
    order = {b"little": "<", b"big": ">"}[content("byteorder")]

  def find_storage(key: str, name: str, count: int) -> Storage:
    storage = Storage(file, name, count, order)
    storage.start, member = places[f"{root}data/{key}"]
    if member.file_size != count * storage.itemsize:
      raise ValueError("a storage whose size differs from what is said of it")
    storage.checksum = member.CRC
    return storage

  pickled = io.BytesIO(content("data.pkl"))
  check_cost(pickled, file.size, _OPCODES)
  pickled.seek(0)
  return _Unpickler(pickled, file, find_storage).load()


class _Bounded:
  """Gives the module `zipfile` no directory that would fill the memory."""

  def __init__(self, stream: BinaryIO):
    self._read, self.seek, self.tell = stream.read, stream.seek, stream.tell

  def read(self, size: int = -1) -> bytes:
    if size > _DIRECTORY:
      raise TooCostly(f"refused: it has more than {_DIRECTORY // 80:,} members")
    return self._read(size)


def _read_old(stream: BinaryIO, file: File) -> Any:
  """Reads the content of a file in the old form."""

  opcodes = _OPCODES

  def load(find_storage: Any = None) -> tuple[Any, dict[str, Storage]]:
    nonlocal opcodes
    start = stream.tell()
    opcodes -= check_cost(stream, file.size, opcodes)
    stream.seek(start)
    unpickler = _Unpickler(stream, file, find_storage)
    return unpickler.load(), unpickler.storages

  if load()[0] != _MAGIC or load()[0] != _VERSION:
    raise ValueError("no file of PyTorch's")
  if load()[0]["little_endian"] is not True:
    raise ValueError("of a machine with another order of bytes")
  content, storages = load(lambda key, name, count: Storage(file, name, count))
  keys, _ = load()
  if not isinstance(keys, list) or sorted(keys) != sorted(storages):
    raise ValueError("other storages than the content has")
  for key in keys:
    storage = storages[key]
    if int.from_bytes(stream.read(8), "little") != storage.count:
      raise ValueError("a storage whose size differs from what is said of it")
    storage.start = stream.tell()
    end = stream.seek(storage.count * storage.itemsize, io.SEEK_CUR)
    if end > file.size:
      raise ValueError("a storage beyond the end of the file")
  return content


def _name_tensors(content: Any, size: int) -> None:
  """Gives tensors the keys they are under, and bounds what they take together.

  A pickle may hold a thousand tensors of one storage, or one a thousand times.

  Raises:
    TooCostly: if reading each where it is would take more than three times the
      size of the file and 300 MB.
  """
  cost, seen = 0, set()
  waiting: list[dict | list | tuple] = [(content,)]
  while waiting:
    inside = waiting.pop()
    if id(inside) in seen:
      continue
    seen.add(id(inside))
    pairs = inside.items() if isinstance(inside, dict) else enumerate(inside)
    for key, value in pairs:
      if isinstance(value, Tensor):
        cost += value.cost
        if isinstance(key, str):
          value.name = key
      elif isinstance(value, dict | list | tuple):
        waiting.append(value)
  if cost > 3 * size + SPARE:
    raise TooCostly(
      f"refused: its {size:,} bytes are used again and again, by tensors of "
      f"{cost:,}"
    )


def _rebuild_tensor(
  storage: Storage, offset: int, shape: Any, stride: Any, *rest: Any
) -> Tensor | OtherTensor:
  """Does what PyTorch's function of this name does, with bounds checked."""
  metadata = rest[2:]  # that its numbers are negated or conjugated
  if storage.dtype is None or any(metadata):
    return OtherTensor()
  return Tensor(storage, offset, shape, stride)


def _rebuild_from_type(call: Any, kind: Any, arguments: Any, *_: Any) -> Any:
  """Makes a tensor that has attributes, without them."""
  if not isinstance(call, Allowed) or not isinstance(kind, str):
    raise ValueError("no function or class")
  return call(*arguments)


def _device(kind: str, index: int | None = None) -> str:
  if not isinstance(kind, str) or not isinstance(index, int | None):
    raise ValueError("no device")
  return kind if index is None else f"{kind}:{index}"


def _bytearray(content: bytes = b"") -> bytearray:
  if not isinstance(content, bytes):  # a number would be a length
    raise ValueError("no bytes")
  return bytearray(content)


def _other_tensor(*_: Any) -> OtherTensor:
  return OtherTensor()


_TABLE = TABLE | {
  ("collections", "OrderedDict"): PlainDict,
  ("collections", "Counter"): dict,
  ("builtins", "bytearray"): _bytearray,
  ("builtins", "complex"): complex,
  # Of Python 3.13 in a module of their own.
  **{
    (module, kind): lambda *parts: "/".join(parts)
    for module in ("pathlib", "pathlib._local")
    for kind in ("PosixPath", "PurePosixPath", "WindowsPath")
  },
  ("torch", "Size"): tuple,
  ("torch", "device"): _device,
  ("torch.serialization", "_get_layout"): _device,  # a text, too
  ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
  ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
  ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
  # Of TorchScript: lists and dicts, with their type beside them.
  **{
    ("torch.jit._pickle", name): lambda value, *_: value
    for name in (
      *("build_intlist", "build_doublelist", "build_boollist"),
      *("build_tensorlist", "restore_type_tag"),
    )
  },
  **{
    ("torch._utils", f"_rebuild_{kind}"): _other_tensor
    for kind in (
      *("tensor_v3", "qtensor", "sparse_tensor", "nested_tensor"),
      "meta_tensor_no_storage",
    )
  },
}
