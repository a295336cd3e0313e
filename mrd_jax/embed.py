"""python -m mrd_jax.embed: embeddings of point-cloud files."""

import argparse
import glob
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mrd_jax.arguments import add_checkpoint, at_least, exit_code
from mrd_jax.data.point_files import SUFFIXES, read_cloud
from mrd_jax.errors import BadInput

if TYPE_CHECKING:
  from mrd_jax.encoder import Encoder
  from mrd_jax.pretrained import UpAxis

_CHUNK = 4  # batches that are read before they are embedded


def main(argv: Sequence[str] | None = None) -> int:
  """Embeds files; returns the exit code.

  Returns:
    0 if every file was embedded, 1 if any was rejected, 2 for bad arguments.
  """
  args = _parser().parse_args(argv)
  return exit_code(lambda: _embed(args))


def _embed(args: argparse.Namespace) -> int:
  output = _checked_output(args.output)
  files = find_files(args.input, output)
  from mrd_jax.encoder import load_encoder  # brings JAX, takes seconds

  encoder = load_encoder(args.checkpoint, args.which)
  embedded, rejected = embed_files(
    encoder,
    files,
    output,
    checkpoint=args.checkpoint,
    up=args.up,
    normalize=args.normalize,
    batch_size=args.batch_size,
  )
  if embedded:
    print(f"{embedded} embeddings written to {output}")
  if rejected:
    print(
      f"{rejected} of {len(files)} files were rejected, "
      f"{rejects_path(output)} says why",
      file=sys.stderr,
    )
    return 1
  return 0


def find_files(inputs: Sequence[str], output: Path) -> list[str]:
  """The files that the arguments name, sorted, each of them once.

  Args:
    inputs: Files, folders (every file below whose suffix is known, but hidden
      ones) or glob patterns (** is any depth).
    output: Left out, as an .npz of an earlier run.

  Raises:
    BadInput: naming the argument that matches no file.
  """
  found = {}
  for given in inputs:
    name = os.path.expanduser(given)
    if os.path.isfile(name):
      names = [name]  # even if it reads as a pattern
    elif os.path.isdir(name):
      below = os.path.join(glob.escape(name), "**", "*")
      names = [
        name
        for name in glob.iglob(below, recursive=True)
        if name.lower().endswith(SUFFIXES)
      ]
    else:
      names = glob.glob(name, recursive=True)
    names = [
      name
      for name in names
      if os.path.isfile(name)
      and os.path.abspath(name) != os.path.abspath(output)
    ]
    if not names:
      raise BadInput(
        f"--input {given}: no such point cloud; name a file, a pattern, or a "
        f"folder with files of {', '.join(SUFFIXES)}"
      )
    for name in names:
      found.setdefault(os.path.abspath(name), name)
  return sorted(found.values())


def embed_files(
  encoder: "Encoder",
  files: Sequence[str],
  output: Path,
  *,
  checkpoint: str,
  up: "UpAxis" = "y",
  normalize: bool = True,
  batch_size: int = 32,
) -> tuple[int, int]:
  """Embeds point-cloud files and writes the embeddings as one .npz.

  A file that cannot be embedded goes to `rejects_path(output)`, at once, and
  the others are embedded all the same.  Both files of an earlier run are
  replaced; if every file is rejected, there is no .npz.

  Args:
    encoder: The encoder.
    files: What to embed; a few batches are in memory at a time.
    output: The .npz: `files` (N,) str, `embeddings` (N, D) float32 of unit
      length, and `source`, JSON of what the embeddings were made with.
    checkpoint: The name of the encoder, for `source`.
    up: The axis of the files that is up.
    normalize: Whether clouds are centred and scaled.
    batch_size: Clouds at a time.

  Returns:
    How many files were embedded, and how many rejected.
  """
  rejects = rejects_path(output)
  rejects.unlink(missing_ok=True)
  embedded, embeddings = [], []
  with tqdm(total=len(files), unit="file", disable=None) as progress:
    for start in range(0, len(files), _CHUNK * batch_size):
      clouds = []
      for name in files[start : start + _CHUNK * batch_size]:
        try:
          cloud = read_cloud(name)
          clouds.append(encoder.prepare(cloud, up=up, normalize=normalize))
          embedded.append(name)
        except BadInput as error:
          # Opened for each line, so that a kill loses none.
          with rejects.open("a") as lines:
            line = json.dumps({"file": name, "reason": str(error)})
            lines.write(line + "\n")
          progress.update()
      if clouds:
        embeddings.append(encoder.embed(clouds, batch_size=batch_size))
        progress.update(len(clouds))
  if embeddings:
    source = {
      "checkpoint": checkpoint,
      "step": encoder.config.step,
      "embedding_space": encoder.config.embedding_space,
      "up": up,
      "normalize": normalize,
    }
    temporary = output.with_name(output.name + ".tmp")
    with temporary.open("wb") as file:
      np.savez(
        file,
        files=np.array(embedded),
        embeddings=np.concatenate(embeddings),
        source=np.array(json.dumps(source)),
      )
    os.replace(temporary, output)
  else:
    output.unlink(missing_ok=True)
  return len(embedded), len(files) - len(embedded)


def rejects_path(output: Path) -> Path:
  """Where the rejected files are listed: embeddings.rejects.jsonl."""
  return output.with_suffix(".rejects.jsonl")


def _checked_output(text: str) -> Path:
  """The path of the .npz; found out now, not after hours of embedding."""
  output = Path(text)
  if output.suffix != ".npz" or output.is_dir():
    raise BadInput(f"--output is {text}, must be a file that ends in .npz")
  try:
    output.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise BadInput(
      f"--output {text}: {output.parent} cannot be made: {error.strerror}"
    ) from None
  if not os.access(output.parent, os.W_OK):
    raise BadInput(f"--output {text}: {output.parent} cannot be written to")
  return output


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.embed",
    description="Embeds point-cloud files with a trained encoder.",
    epilog="Exit code: 0 if every file was embedded, 1 if any was rejected, "
    "2 for bad arguments.",
  )
  add_checkpoint(parser)
  parser.add_argument(
    "--input",
    required=True,
    action="extend",
    nargs="+",
    metavar="FILES",
    help="files, folders or patterns such as 'shapes/**/*.ply'; can be "
    f"repeated; read are {', '.join(SUFFIXES)}",
  )
  parser.add_argument(
    "--output",
    required=True,
    metavar="FILE.npz",
    help="file to create; rejected files are listed beside it, in "
    "FILE.rejects.jsonl",
  )
  parser.add_argument(
    "--up",
    choices=("y", "z"),
    default="y",
    help="the axis of the files that is up (default: y)",
  )
  parser.add_argument(
    "--batch-size",
    type=at_least(1),
    default=32,
    metavar="B",
    help="clouds at a time (default: 32)",
  )
  parser.add_argument(
    "--no-normalize",
    dest="normalize",
    action="store_false",
    help="the clouds are in the unit ball already: leave them as they are",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
