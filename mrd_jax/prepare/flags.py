"""Declares the flags that several kinds share, and reads them."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mrd_jax.cli import at_least
from mrd_jax.errors import BadInput

if TYPE_CHECKING:
  from mrd_jax.prepare.job.engine import Engine
  from mrd_jax.prepare.job.teacher import TeacherConfig
  from mrd_jax.prepare.test_sets.common import EvaluationSet


def add_input(parser: argparse.ArgumentParser, what: str) -> None:
  """Adds --input."""
  parser.add_argument("--input", required=True, help=what)


def add_output(parser: argparse.ArgumentParser) -> None:
  """Adds --output."""
  parser.add_argument("--output", required=True, help="folder to create")


def add_limit(parser: argparse.ArgumentParser) -> None:
  """Adds --limit."""
  parser.add_argument(
    "--limit", type=at_least(1), help="at most so many shapes of each list"
  )


def add_engine(parser: argparse.ArgumentParser) -> None:
  """Adds what `engine` reads."""
  parser.add_argument(
    "--workers",
    type=at_least(1),
    help="processes on this machine, at most (default: one a core)",
  )
  parser.add_argument(
    "--beam_runner",
    help="run on a cluster, with this runner of Apache Beam (default: run here)",
  )
  parser.add_argument(
    "--beam_pipeline_options",
    default="",
    metavar="NAME=VALUE,...",
    help="the runner's options",
  )


def engine(args: argparse.Namespace) -> "Engine":
  """Says where the job runs."""
  from mrd_jax.prepare.job.engine import Engine

  return Engine(args.workers, args.beam_runner, args.beam_pipeline_options)


def add_teacher(parser: argparse.ArgumentParser, required: bool) -> None:
  """Adds what `teacher` reads, but --captioner."""
  parser.add_argument(
    "--teacher",
    required=required,
    help="a Hugging Face CLIP: folder, or user/model on the hub",
  )
  parser.add_argument("--revision", help="of the model on the hub")
  parser.add_argument(
    "--dtype", choices=("bfloat16", "float32"), default="bfloat16"
  )
  parser.add_argument(
    "--batch-size", type=at_least(1), default=64, help="on each device"
  )
  parser.add_argument("--templates", help="JSON or .txt (default: ours)")
  parser.add_argument("--template-key", help="which list of the JSON")


def teacher(args: argparse.Namespace) -> "TeacherConfig":
  """Says which model makes the features."""
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


def add_test_set(parser: argparse.ArgumentParser) -> None:
  """Adds what `convert_test_set` reads."""
  parser.add_argument("--parts", default="test", help="train, test or both")
  parser.add_argument("--class-features", help="OpenShape's .npy of them")
  add_teacher(parser, required=False)
  add_engine(parser)


def convert_test_set(
  args: argparse.Namespace,
  read: "Callable[[int], Sequence[EvaluationSet]]",
) -> str:
  """Makes a dataset of labelled sets; returns what to print."""
  from mrd_jax.prepare.test_sets.convert import ClassFeatures, convert

  if (args.teacher is None) == (args.class_features is None):
    raise BadInput("give either --teacher or --class-features")
  classes = ClassFeatures(
    teacher=teacher(args) if args.teacher else None, file=args.class_features
  )
  report = convert(args.input, args.output, read, classes, engine=engine(args))
  return f"{report}\nwritten to {args.output}"
