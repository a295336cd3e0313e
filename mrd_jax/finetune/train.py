"""Fine-tunes an encoder for classification: a run of training/."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax

from mrd_jax.checkpoint.read import steps_in
from mrd_jax.config.finetuning import Config
from mrd_jax.errors import BadInput
from mrd_jax.finetune import start as starts
from mrd_jax.finetune.classification import Classification
from mrd_jax.io.files import LOCK, read_json, write_json
from mrd_jax.parallel.agree import first_says, held_together
from mrd_jax.training.loop import train_loop
from mrd_jax.training.profile import compile_cache
from mrd_jax.training.set_up import set_up


def finetune(
  config: Config,
  checkpoint: str,
  workdir: Path,
  *,
  which: str = "latest",
  lock: bool = True,
) -> dict[str, Any] | None:
  """Fine-tunes, or goes on fine-tuning, the run in `workdir`.

  Leaves there what `train_loop` does, start.json, and at the end results.json.

  Args:
    config: The run's config.
    checkpoint: The encoder to start from, as `load_encoder` takes it; "" for
      none.
    workdir: The run's folder.
    which: Checkpoint of a run to start from, "latest" or "best".
    lock: As in `training.set_up.train`.

  Returns:
    The content of results.json, on the first process; None if the run was
    asked to stop before its end.

  Raises:
    BadInput: if the config, the checkpoint, the data and the folder do not fit
      together, or another command is at work on the folder.
    NotFinite: if the loss or a gradient is no longer finite.
  """
  start_file = workdir / starts.START_FILE
  with contextlib.ExitStack() as stack:
    if lock:
      stack.enter_context(held_together("--workdir", workdir / LOCK))
    if (workdir / "config.json").exists() and not start_file.exists():
      raise BadInput(
        f"--workdir: {workdir} holds a run that is no fine-tuning; name another "
        "folder"
      )
    workdir.mkdir(parents=True, exist_ok=True)
    resumed = first_says(bool(steps_in(workdir / "checkpoints")))
    if resumed:
      start, encoder_variables = starts.read(workdir, checkpoint, which), None
    else:
      start, encoder_variables = starts.load(checkpoint, which, config.scratch)
    run = set_up(Classification(config, start, encoder_variables))
    if jax.process_index() == 0 and not resumed:
      write_json(start_file, dataclasses.asdict(start))
    stack.enter_context(compile_cache(config.compile_cache))
    ended = train_loop(run, workdir)
  if not ended or jax.process_index():
    return None
  return read_json(workdir / "results.json")
