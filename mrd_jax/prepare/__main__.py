"""python -m mrd_jax.prepare KIND ...: makes a dataset."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mrd_jax.cli import exit_code
from mrd_jax.errors import BadInput
from mrd_jax.prepare.flags import parse

if TYPE_CHECKING:
  from mrd_jax.prepare.job.engine import BeamConfig
  from mrd_jax.prepare.job.outcome import Report
  from mrd_jax.prepare.job.teacher import TeacherConfig
  from mrd_jax.prepare.test_sets.common import EvaluationSet
  from mrd_jax.prepare.test_sets.convert import ClassFeatures

# The modules of a kind are imported when it runs: --help must not wait.


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one preparation; returns the exit code (2 for bad input)."""
  args = parse(argv)

  def run() -> int:
    print(_KINDS[args.kind](args))
    return 0

  return exit_code(run)


def _written(report: "Report", args: argparse.Namespace) -> str:
  return f"{report}\nwritten to {args.output}"


def _openshape(args: argparse.Namespace) -> str:
  from mrd_jax.prepare.openshape import convert

  splits = args.splits.split(",") if args.splits else None
  parts = None
  if args.parts:
    parts = [part.removesuffix(".tar.gz") for part in args.parts.split(",")]
  if args.download:
    from mrd_jax.prepare.openshape.download import download

    archives = [f"{part}.tar.gz" for part in parts] if parts else None
    download(args.input, parts=archives, splits=splits)
  report = convert.convert(
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

  given = {k: v for k, v in vars(args).items() if k not in ("kind", "output")}
  meta = procedural.generate(args.output, **given)
  classes = len(meta.class_names["train"])
  return (
    f"{meta.max_points} points a shape, {classes} classes, teacher: "
    f"{meta.teacher}\n"
    f"written to {args.output}"
  )


def _meshes(args: argparse.Namespace) -> str:
  from mrd_jax.prepare.mesh import convert

  report = convert.convert(
    args.input,
    args.output,
    _teacher(args),
    texts=args.texts,
    config=convert.MeshConfig(
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
  from mrd_jax.prepare.test_sets import scanobjectnn

  def read(embed_dim: int) -> "list[EvaluationSet]":
    return [
      scanobjectnn.read(args.input, variant, part, embed_dim)
      for variant in args.variants.split(",")
      for part in args.parts.split(",")
    ]

  return _evaluation(args, read)


def _modelnet40(args: argparse.Namespace) -> str:
  from mrd_jax.prepare.test_sets import modelnet40

  forms: "dict[str, Callable[..., EvaluationSet]]" = {
    "hdf5": modelnet40.read_hdf5,
    "txt": functools.partial(modelnet40.read_txt, classes=args.classes),
    "openshape": lambda root, _, embed_dim: modelnet40.read_openshape(
      root, embed_dim
    ),
  }

  def read(embed_dim: int) -> "list[EvaluationSet]":
    parts = args.parts.split(",") if args.form != "openshape" else ["test"]
    form = forms[args.form]
    return [form(args.input, part, embed_dim=embed_dim) for part in parts]

  return _evaluation(args, read)


def _evaluation(
  args: argparse.Namespace,
  read: "Callable[[int], list[EvaluationSet]]",
) -> str:
  from mrd_jax.prepare.test_sets import convert

  report = convert.convert(
    args.input, args.output, read, _classes(args), beam_config=_beam(args)
  )
  return _written(report, args)


def _captions(args: argparse.Namespace) -> str:
  from mrd_jax.prepare.test_sets import cap3d

  problems: list[str] = []
  captions = cap3d.read_captions(args.input, problems)
  lines = [
    str(cap3d.write_captions(args.data, split, captions))
    for split in args.splits.split(",")
  ]
  return "\n".join([*problems, *lines])


def _beam(args: argparse.Namespace) -> "BeamConfig":
  from mrd_jax.prepare.job.engine import BeamConfig

  return BeamConfig(args.beam_runner, args.beam_pipeline_options)


def _teacher(args: argparse.Namespace) -> "TeacherConfig":
  from mrd_jax.prepare.job.teacher import TeacherConfig

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
  from mrd_jax.prepare.test_sets.convert import ClassFeatures

  if (args.teacher is None) == (args.class_features is None):
    raise BadInput("give either --teacher or --class-features")
  if args.class_features is not None:
    return ClassFeatures(file=args.class_features)
  return ClassFeatures(teacher=_teacher(args))


_KINDS: dict[str, Callable[[argparse.Namespace], str]] = {
  "openshape": _openshape,
  "meshes": _meshes,
  "ulip2": _ulip2,
  "scanobjectnn": _scanobjectnn,
  "modelnet40": _modelnet40,
  "captions": _captions,
  "procedural": _procedural,
}

if __name__ == "__main__":
  sys.exit(main())
