"""Makes training records out of published or generated data."""

from pathlib import Path

from mrd_jax.io.terminal import say


def ensure(data_dir: str, made_from: str) -> None:
  """Makes the dataset at `data_dir` if it is missing and can be made.

  Args:
    data_dir: Where it should be.
    made_from: "procedural", a folder in OpenShape's layout, or "" to leave a
      missing dataset to whoever opens it to complain about.
  """
  # Not above: the workers of a job import this package too.
  import jax
  from jax.experimental import multihost_utils

  from mrd_jax.prepare import procedural
  from mrd_jax.prepare.openshape import convert

  try:
    if made_from and jax.process_index() == 0 and not Path(data_dir).exists():
      say(f"making {data_dir} from {made_from} (once)")
      if made_from == "procedural":
        procedural.generate(data_dir)
      else:
        convert.convert(made_from, data_dir)
  finally:
    # Also after a failure: the others then find no dataset, and say so.
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("dataset made")
