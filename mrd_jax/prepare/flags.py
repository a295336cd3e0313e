"""Declares the flags that several kinds share, and reads them."""

import argparse
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from mrd_jax.cli import at_least, path

if TYPE_CHECKING:
  from mrd_jax.prepare.job.engine import Engine
  from mrd_jax.prepare.job.teacher import TeacherConfig

_T = TypeVar("_T")


def call(function: Callable[..., _T], args: argparse.Namespace) -> _T:
  """Calls a function with the flags that are named like its parameters."""
  named = inspect.signature(function).parameters
  return function(**{k: v for k, v in vars(args).items() if k in named})


def add_input(parser: argparse.ArgumentParser, what: str) -> None:
  """Adds --input."""
  parser.add_argument("--input", required=True, help=what)


def add_output(parser: argparse.ArgumentParser) -> None:
  """Adds --output."""
  parser.add_argument(
    "--output", required=True, type=path, help="folder to create"
  )


def add_limit(parser: argparse.ArgumentParser) -> None:
  """Adds --limit."""
  text = "at most so many shapes of each list"
  parser.add_argument("--limit", type=at_least(1), help=text)


def add_engine(parser: argparse.ArgumentParser) -> None:
  """Adds what `engine` reads."""
  add = parser.add_argument
  text = "processes on this machine, at most (default: one a core)"
  add("--workers", type=at_least(1), help=text)
  add("--beam_runner", help="of Apache Beam, for a cluster (default: run here)")
  text = "the runner's options: NAME=VALUE,..."
  options: Any = {"dest": "beam_options", "type": str, "default": ""}
  add("--beam_pipeline_options", help=text, **options)


def engine(args: argparse.Namespace) -> "Engine":
  """Says where the job runs."""
  from mrd_jax.prepare.job.engine import Engine

  return call(Engine, args)


def add_teacher(parser: argparse.ArgumentParser, required: bool) -> None:
  """Adds what `teacher` reads, but --captioner."""
  add = parser.add_argument
  text = "a Hugging Face CLIP: folder, or user/model on the hub"
  add("--teacher", dest="model", required=required, help=text)
  add("--revision", help="of the model on the hub")
  add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
  add("--batch-size", type=at_least(1), default=64, help="on each device")
  add("--templates", help="JSON or .txt (default: ours)")
  add("--template-key", help="which list of the JSON")


def teacher(args: argparse.Namespace) -> "TeacherConfig":
  """Says which model makes the features."""
  from mrd_jax.prepare.job.teacher import TeacherConfig

  return call(TeacherConfig, args)


def add_test_set(parser: argparse.ArgumentParser) -> None:
  """Adds what `test_sets.convert` reads."""
  parser.add_argument("--parts", default="test", help="train, test or both")
  parser.add_argument("--class-features", help="OpenShape's .npy of them")
  add_teacher(parser, required=False)
  add_engine(parser)
