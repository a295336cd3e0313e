"""python -m mrd_jax.prepare KIND ...: makes a dataset."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mrd_jax.arguments import at_least, exit_code
from mrd_jax.errors import BadInput

if TYPE_CHECKING:
  from mrd_jax.prepare.engine import BeamConfig
  from mrd_jax.prepare.evaluation import ClassFeatures
  from mrd_jax.prepare.report import Report
  from mrd_jax.prepare.teacher import TeacherConfig

# The modules of a kind are imported when it runs: --help must not wait.


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one preparation; returns the exit code (2 for bad input)."""
  args = _parser().parse_args(argv)

  def run() -> int:
    print(args.run(args))
    return 0

  return exit_code(run)


def _written(report: "Report", args: argparse.Namespace) -> str:
  return f"{report}\nwritten to {args.output}"


def _openshape(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import openshape

  splits = args.splits.split(",") if args.splits else None
  parts = None
  if args.parts:
    parts = [part.removesuffix(".tar.gz") for part in args.parts.split(",")]
  if args.download:
    from mrd_jax.prepare.download import download

    archives = [f"{part}.tar.gz" for part in parts] if parts else None
    download(args.input, parts=archives, splits=splits)
  report = openshape.convert(
    args.input,
    args.output,
    splits=splits,
    parts=parts,
    root_remap=args.root_remap,
    limit=args.limit,
    teacher=args.teacher,
    beam_config=_beam(args),
  )
  return _written(report, args)


def _procedural(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import procedural

  given = {k: v for k, v in vars(args).items() if k not in ("run", "output")}
  meta = procedural.generate(args.output, **given)
  classes = len(meta.class_names["train"])
  return (
    f"{meta.max_points} points a shape, {classes} classes, teacher: "
    f"{meta.teacher}\n"
    f"written to {args.output}"
  )


def _meshes(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import meshes

  report = meshes.convert(
    args.input,
    args.output,
    _teacher(args),
    texts=args.texts,
    config=meshes.MeshConfig(
      up=args.up,
      num_points=args.num_points,
      views=args.views,
      image_size=args.image_size,
      seed=args.seed,
      names_from_files=not args.no_file_names,
      val_share=args.val_share,
    ),
    beam_config=_beam(args),
  )
  return _written(report, args)


def _ulip2(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import ulip2

  report = ulip2.convert(
    args.input,
    args.output,
    _teacher(args),
    captions_per_view=args.captions_per_view,
    limit=args.limit,
    beam_config=_beam(args),
  )
  return _written(report, args)


def _scanobjectnn(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import evaluation, scanobjectnn

  def read(embed_dim: int):
    return [
      scanobjectnn.read(args.input, variant, part, embed_dim)
      for variant in args.variants.split(",")
      for part in args.parts.split(",")
    ]

  return _written(
    evaluation.convert(
      args.input,
      args.output,
      read,
      _classes(args),
      beam_config=_beam(args),
    ),
    args,
  )


def _modelnet40(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import evaluation, modelnet40

  forms: dict[str, Callable[..., evaluation.EvaluationSet]] = {
    "hdf5": modelnet40.read_hdf5,
    "txt": functools.partial(modelnet40.read_txt, classes=args.classes),
    "openshape": lambda root, _, embed_dim: modelnet40.read_openshape(
      root, embed_dim
    ),
  }

  def read(embed_dim: int):
    parts = args.parts.split(",") if args.form != "openshape" else ["test"]
    form = forms[args.form]
    return [form(args.input, part, embed_dim=embed_dim) for part in parts]

  return _written(
    evaluation.convert(
      args.input,
      args.output,
      read,
      _classes(args),
      beam_config=_beam(args),
    ),
    args,
  )


def _captions(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import cap3d

  problems: list[str] = []
  captions = cap3d.read_captions(args.input, problems)
  lines = [
    str(cap3d.write_captions(args.data, split, captions))
    for split in args.splits.split(",")
  ]
  return "\n".join([*problems, *lines])


def _beam(args: argparse.Namespace) -> "BeamConfig":
  from mrd_jax.prepare.engine import BeamConfig

  return BeamConfig(args.beam_runner, args.beam_pipeline_options)


def _teacher(args: argparse.Namespace) -> "TeacherConfig":
  from mrd_jax.prepare.teacher import TeacherConfig

  return TeacherConfig(
    model=args.teacher,
    revision=args.revision,
    dtype=args.dtype,
    batch_size=args.batch_size,
    templates=args.templates,
    template_key=args.template_key,
    captioner=getattr(args, "captioner", None),
  )


def _classes(args: argparse.Namespace) -> "ClassFeatures":
  from mrd_jax.prepare.evaluation import ClassFeatures

  if (args.teacher is None) == (args.class_features is None):
    raise BadInput("give either --teacher or --class-features")
  if args.class_features is not None:
    return ClassFeatures(file=args.class_features)
  return ClassFeatures(teacher=_teacher(args))


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


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.prepare",
    description="Makes a dataset that training can read (docs/data.md).",
  )
  verbs = parser.add_subparsers(required=True, metavar="KIND")

  verb = _add(verbs, "openshape", _openshape, "data in OpenShape's layout")
  _add_input(verb, "folder with meta_data/")
  verb.add_argument(
    "--download",
    action="store_true",
    help="fetch what --input lacks from the Hugging Face hub first (205 GB "
    "without --parts)",
  )
  verb.add_argument(
    "--parts",
    help="only these folders, for instance 'ABO,Objaverse/000-00*'",
  )
  verb.add_argument(
    "--splits",
    help="comma-separated: train, val, lvis, modelnet40, scanobjectnn, or a "
    "list of meta_data/split by its name (default: the first five, where "
    "present)",
  )
  verb.add_argument(
    "--root-remap",
    type=_remap,
    metavar="OLD=NEW",
    help="replace the beginning of the lists' paths (default: found by itself)",
  )
  _add_limit(verb)
  verb.add_argument(
    "--teacher", help="which model made the features, in words, for the record"
  )
  _add_beam(verb)

  verb = _add(verbs, "meshes", _meshes, "a folder of meshes")
  verb.add_argument(
    "input", metavar="DIR", help="of .glb, .gltf, .obj, .ply, .stl, .off"
  )
  verb.add_argument("--texts", help="CSV table: file, name, caption, ...")
  verb.add_argument(
    "--up",
    choices=("y", "z"),
    default="y",
    help="axis that is up, but in glTF, where it is y (default: y)",
  )
  verb.add_argument("--num-points", type=at_least(1), default=10_000)
  verb.add_argument("--views", type=at_least(1), default=12)
  verb.add_argument("--image-size", type=at_least(8), default=224)
  verb.add_argument("--seed", type=at_least(0), default=0)
  verb.add_argument(
    "--val-share",
    type=_share,
    default=0.0,
    help="share of the training shapes that become the split val (default: 0)",
  )
  verb.add_argument(
    "--no-file-names",
    action="store_true",
    help="do not name shapes after their files",
  )
  _add_teacher(verb, required=True)
  verb.add_argument(
    "--captioner",
    help="image-to-text model for shapes without a caption (needs PyTorch)",
  )
  _add_beam(verb)

  verb = _add(verbs, "ulip2", _ulip2, "ULIP-2's ShapeNet triplets")
  _add_input(verb, "folder with shapenet_pc/")
  verb.add_argument(
    "--captions-per-view",
    type=at_least(1),
    default=1,
    help="how many the teacher reads, to keep the best (default: 1; 10 exist)",
  )
  _add_limit(verb)
  _add_teacher(verb, required=True)
  _add_beam(verb)

  for name, run, what in (
    ("scanobjectnn", _scanobjectnn, "ScanObjectNN's h5_files"),
    ("modelnet40", _modelnet40, "ModelNet40"),
  ):
    verb = _add(verbs, name, run, f"{what}, for evaluation")
    _add_input(verb, f"folder with {what}")
    if run is _scanobjectnn:
      verb.add_argument("--variants", default="obj_only,obj_bg,pb_t50_rs")
    else:
      forms = ("hdf5", "txt", "openshape")
      verb.add_argument("--form", choices=forms, required=True)
      verb.add_argument("--classes", type=int, choices=(10, 40), default=40)
    verb.add_argument("--parts", default="test", help="train, test or both")
    verb.add_argument("--class-features", help="OpenShape's .npy of them")
    _add_teacher(verb, required=False)
    _add_beam(verb)

  verb = verbs.add_parser(
    "captions", help="Cap3D's captions, beside a prepared dataset"
  )
  verb.set_defaults(run=_captions)
  _add_input(verb, "one of Cap3D's CSV files")
  verb.add_argument("--data", required=True, help="the prepared dataset")
  verb.add_argument("--splits", default="lvis")

  verb = _add(verbs, "procedural", _procedural, "the embedded synthetic data")
  for flag, text in (
    ("--train", "shapes to train on"),
    ("--val", "shapes to validate on"),
    ("--num-points", "points per shape"),
    ("--num-views", "image features per shape"),
    ("--embed-dim", "width of the features"),
  ):
    # Absent flags stay absent: the defaults are those of `generate`.
    verb.add_argument(
      flag, type=at_least(1), default=argparse.SUPPRESS, help=text
    )
  verb.add_argument("--seed", type=int, default=argparse.SUPPRESS)
  return parser


def _add(
  verbs, name: str, run: Callable[[argparse.Namespace], str], what: str
) -> argparse.ArgumentParser:
  verb = verbs.add_parser(name, help=what)
  verb.set_defaults(run=run)
  verb.add_argument("--output", required=True, help="folder to create")
  return verb


def _add_input(verb: argparse.ArgumentParser, what: str) -> None:
  verb.add_argument("--input", required=True, help=what)


def _add_limit(verb: argparse.ArgumentParser) -> None:
  verb.add_argument(
    "--limit", type=at_least(1), help="at most so many shapes of each list"
  )


def _add_beam(verb: argparse.ArgumentParser) -> None:
  verb.add_argument(
    "--beam_runner",
    default="DirectRunner",
    help="Apache Beam's runner (default: DirectRunner, all cores)",
  )
  verb.add_argument(
    "--beam_pipeline_options",
    default="",
    metavar="NAME=VALUE,...",
    help="the runner's options",
  )


def _add_teacher(verb: argparse.ArgumentParser, required: bool) -> None:
  verb.add_argument(
    "--teacher",
    required=required,
    help="a Hugging Face CLIP: folder, or user/model on the hub",
  )
  verb.add_argument("--revision", help="of the model on the hub")
  verb.add_argument(
    "--dtype", choices=("bfloat16", "float32"), default="bfloat16"
  )
  verb.add_argument(
    "--batch-size", type=at_least(1), default=64, help="on each device"
  )
  verb.add_argument("--templates", help="JSON or .txt (default: ours)")
  verb.add_argument("--template-key", help="which list of the JSON")


if __name__ == "__main__":
  sys.exit(main())
