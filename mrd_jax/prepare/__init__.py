"""What makes training records out of published or generated data."""

from pathlib import Path

import jax
from jax.experimental import multihost_utils


def ensure(data_dir: str, made_from: str) -> None:
  """Makes the dataset at `data_dir` if it is missing and can be made.

  Args:
    data_dir: Where it should be.
    made_from: "procedural", a folder in OpenShape's layout, or "" to leave a
      missing dataset to whoever opens it to complain about.
  """
  if made_from and jax.process_index() == 0 and not Path(data_dir).exists():
    print(f"making {data_dir} from {made_from} (once)", flush=True)
    if made_from == "procedural":
      from mrd_jax.prepare import procedural

      procedural.generate(Path(data_dir))
    else:
      from mrd_jax.prepare import openshape

      openshape.convert(Path(made_from), Path(data_dir))
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("dataset made")
