"""Damages checkpoints."""

from pathlib import Path


def flip(file: Path, byte: int, bit: int = 3) -> None:
  content = bytearray(file.read_bytes())
  content[byte] ^= 1 << bit
  file.write_bytes(content)


def array_file(step: Path) -> Path:
  return max(step.rglob("ocdbt.process_*/d/*"), key=lambda f: f.stat().st_size)


def contents(directory: Path) -> dict[Path, bytes]:
  return {f: f.read_bytes() for f in directory.rglob("*") if f.is_file()}
