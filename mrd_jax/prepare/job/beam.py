"""Runs the units of a preparation job on Apache Beam: for clusters.

TFDS's own Beam writers are not used: they start in a new temporary folder
every time, so nothing survives a kill, and shuffle all records through the
runner.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from mrd_jax.errors import BadInput

_IN_MEMORY = "DirectRunner"


def run(
  units: Sequence[Any],
  make: Callable[[Any], None],
  runner: str | None,
  options: str,
) -> None:
  """Makes every unit on a worker.

  Args:
    units: What `make` is called with.
    make: Makes one unit; sent to the workers with it.
    runner: Name of a Beam runner; None for the one in this process.
    options: "name=value,name=value".

  Raises:
    BadInput: when Beam is not installed, does not know the runner, or cannot
      read an option.
  """
  try:
    import apache_beam as beam
  except ModuleNotFoundError:
    raise BadInput(
      "--beam_runner: Apache Beam is not installed: pip install mrd-jax[beam]; "
      "one machine's jobs do not need it"
    ) from None
  pipeline = beam.Pipeline(*runner_and_options(runner or _IN_MEMORY, options))
  with pipeline:
    _ = (
      pipeline
      | "Units" >> beam.Create(units)
      | "Spread" >> beam.Reshuffle()
      # Beam would look into the annotations, and cannot judge a Protocol.
      | "Make" >> beam.Map(make).with_input_types(Any)
    )


def runner_and_options(name: str, options: str) -> tuple[Any, Any]:
  """Returns Beam's runner of that name, and its options; raises as `run`."""
  from apache_beam.options.pipeline_options import PipelineOptions
  from apache_beam.runners import runner as runners

  given = [f"--{o.strip()}" for o in options.split(",") if o.strip()]
  words = io.StringIO()
  try:
    with contextlib.redirect_stderr(words):
      PipelineOptions(given).get_all_options()  # argparse judges the values
  except SystemExit:
    reason = words.getvalue().strip().rpartition("\n")[2]
    raise BadInput(
      f"--beam_pipeline_options: {options!r} cannot be read ({reason}); "
      "expected NAME or NAME=VALUE, separated by commas"
    ) from None
  if name == _IN_MEMORY:
    # What is behind this name, without its attempt to fetch another runner
    # (Prism, a Go program) from the network.
    name = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
  try:
    return runners.create_runner(name), PipelineOptions(given)
  except (ValueError, ImportError, AttributeError) as error:
    reason = str(error).partition("\n")[0]
    raise BadInput(
      f"--beam_runner: {name} cannot be used ({reason}); use "
      "DirectRunner, FlinkRunner, SparkRunner, DataflowRunner, or install "
      "what Beam asks for"
    ) from None
