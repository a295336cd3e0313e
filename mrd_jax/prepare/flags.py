"""The command line of `python -m mrd_jax.prepare`."""

import argparse
from collections.abc import Sequence

from mrd_jax.cli import at_least


def _remap(text: str) -> tuple[str, str]:
  old, separator, new = text.partition("=")
  if not old or not separator:
    raise argparse.ArgumentTypeError("expected OLD=NEW")
  return old, new


def _share(text: str) -> float:
  try:
    share = float(text)
  except ValueError:
    share = -1.0
  if not 0 <= share < 1:
    raise argparse.ArgumentTypeError("expected a number from 0 to below 1")
  return share


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """Reads the command line; `kind` is the first argument."""
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.prepare",
    description="Makes a dataset that training can read (docs/data.md).",
  )
  kinds = parser.add_subparsers(required=True, dest="kind", metavar="KIND")

  kind = _add(kinds, "openshape", "data in OpenShape's layout")
  _add_input(kind, "folder with meta_data/")
  kind.add_argument(
    "--download",
    action="store_true",
    help="fetch what --input lacks from the Hugging Face hub first (205 GB "
    "without --parts)",
  )
  kind.add_argument(
    "--parts",
    help="only these folders, for instance 'ABO,Objaverse/000-00*'",
  )
  kind.add_argument(
    "--splits",
    help="comma-separated: train, val, lvis, modelnet40, scanobjectnn, or a "
    "list of meta_data/split by its name (default: the first five, where "
    "present)",
  )
  kind.add_argument(
    "--root-remap",
    type=_remap,
    metavar="OLD=NEW",
    help="replace the beginning of the lists' paths (default: found by itself)",
  )
  _add_limit(kind)
  kind.add_argument(
    "--teacher", help="which model made the features, in words, for the record"
  )
  _add_beam(kind)

  kind = _add(kinds, "meshes", "a folder of meshes")
  kind.add_argument(
    "input", metavar="DIR", help="of .glb, .gltf, .obj, .ply, .stl, .off"
  )
  kind.add_argument("--texts", help="CSV table: file, name, caption, ...")
  kind.add_argument(
    "--up",
    choices=("y", "z"),
    default="y",
    help="axis that is up, but in glTF, where it is y (default: y)",
  )
  kind.add_argument("--num-points", type=at_least(1), default=10_000)
  kind.add_argument("--views", type=at_least(1), default=12)
  kind.add_argument("--image-size", type=at_least(8), default=224)
  kind.add_argument("--seed", type=at_least(0), default=0)
  kind.add_argument(
    "--val-share",
    type=_share,
    default=0.0,
    help="share of the training shapes that become the split val (default: 0)",
  )
  kind.add_argument(
    "--no-file-names",
    action="store_true",
    help="do not name shapes after their files",
  )
  _add_teacher(kind, required=True)
  kind.add_argument(
    "--captioner",
    help="image-to-text model for shapes without a caption (needs PyTorch)",
  )
  _add_beam(kind)

  kind = _add(kinds, "ulip2", "ULIP-2's ShapeNet triplets")
  _add_input(kind, "folder with shapenet_pc/")
  kind.add_argument(
    "--captions-per-view",
    type=at_least(1),
    default=1,
    help="how many the teacher reads, to keep the best (default: 1; 10 exist)",
  )
  _add_limit(kind)
  _add_teacher(kind, required=True)
  _add_beam(kind)

  for name, what in (
    ("scanobjectnn", "ScanObjectNN's h5_files"),
    ("modelnet40", "ModelNet40"),
  ):
    kind = _add(kinds, name, f"{what}, for evaluation")
    _add_input(kind, f"folder with {what}")
    if name == "scanobjectnn":
      kind.add_argument("--variants", default="obj_only,obj_bg,pb_t50_rs")
    else:
      forms = ("hdf5", "txt", "openshape")
      kind.add_argument("--form", choices=forms, required=True)
      kind.add_argument("--classes", type=int, choices=(10, 40), default=40)
    kind.add_argument("--parts", default="test", help="train, test or both")
    kind.add_argument("--class-features", help="OpenShape's .npy of them")
    _add_teacher(kind, required=False)
    _add_beam(kind)

  kind = kinds.add_parser(
    "captions", help="Cap3D's captions, beside a prepared dataset"
  )
  _add_input(kind, "one of Cap3D's CSV files")
  kind.add_argument("--data", required=True, help="the prepared dataset")
  kind.add_argument("--splits", default="lvis")

  kind = _add(kinds, "procedural", "the embedded synthetic data")
  for flag, text in (
    ("--train", "shapes to train on"),
    ("--val", "shapes to validate on"),
    ("--num-points", "points per shape"),
    ("--num-views", "image features per shape"),
    ("--embed-dim", "width of the features"),
  ):
    # Absent flags stay absent: the defaults are those of `generate`.
    kind.add_argument(
      flag, type=at_least(1), default=argparse.SUPPRESS, help=text
    )
  kind.add_argument("--seed", type=int, default=argparse.SUPPRESS)
  return parser.parse_args(argv)


def _add(kinds, name: str, what: str) -> argparse.ArgumentParser:
  kind = kinds.add_parser(name, help=what)
  kind.add_argument("--output", required=True, help="folder to create")
  return kind


def _add_input(kind: argparse.ArgumentParser, what: str) -> None:
  kind.add_argument("--input", required=True, help=what)


def _add_limit(kind: argparse.ArgumentParser) -> None:
  kind.add_argument(
    "--limit", type=at_least(1), help="at most so many shapes of each list"
  )


def _add_beam(kind: argparse.ArgumentParser) -> None:
  kind.add_argument(
    "--beam_runner",
    default="DirectRunner",
    help="Apache Beam's runner (default: DirectRunner, all cores)",
  )
  kind.add_argument(
    "--beam_pipeline_options",
    default="",
    metavar="NAME=VALUE,...",
    help="the runner's options",
  )


def _add_teacher(kind: argparse.ArgumentParser, required: bool) -> None:
  kind.add_argument(
    "--teacher",
    required=required,
    help="a Hugging Face CLIP: folder, or user/model on the hub",
  )
  kind.add_argument("--revision", help="of the model on the hub")
  kind.add_argument(
    "--dtype", choices=("bfloat16", "float32"), default="bfloat16"
  )
  kind.add_argument(
    "--batch-size", type=at_least(1), default=64, help="on each device"
  )
  kind.add_argument("--templates", help="JSON or .txt (default: ours)")
  kind.add_argument("--template-key", help="which list of the JSON")
