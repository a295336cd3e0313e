"""Loads what a fine-tuning starts from: an encoder, or its sizes alone."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrd_jax.config.fields import build, check
from mrd_jax.config.finetuning import ScratchConfig
from mrd_jax.config.pretraining import PointBERTSize, UpAxis
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json
from mrd_jax.zoo.registry import SYSTEMS

START_FILE = "start.json"


@dataclasses.dataclass(frozen=True)
class Start:
  """Says what a run starts from; start.json keeps it, without the weights.

  Attributes:
    checkpoint: What `load_encoder` takes; "" for none.
    which: Checkpoint of a run, "latest" or "best".
    step: Of the checkpoint; 0 if unknown.
    source: Where its weights come from, in words.
    architecture: The encoder's sizes: the `Size` of its system, of a PointBERT
      without its projection.
    up_axis: The axis that is up in the clouds that it sees.
    colour_fill: The grey of clouds without colours.
    system: A key of `zoo.registry.SYSTEMS`.
  """

  checkpoint: str
  which: str
  step: int
  source: str
  architecture: Any
  up_axis: UpAxis
  colour_fill: float
  system: str = "pointbert"


def load(
  checkpoint: str, which: str, scratch: ScratchConfig
) -> tuple[Start, Any]:
  """Loads what a new run starts from.

  Args:
    checkpoint: As `load_encoder` takes it; "" to start from scratch.
    which: Likewise, "latest" or "best".
    scratch: The encoder in that case.

  Returns:
    The start, and the encoder's variables as numpy arrays, of a PointBERT
    without its projection; None from scratch.

  Raises:
    BadInput: if there is no encoder to load.
  """
  if not checkpoint:
    drawn = (0, "random weights", scratch.size)
    start = Start("", which, *drawn, scratch.up_axis, scratch.colour_fill)
    return start, None
  encoder = load_encoder(checkpoint, which)
  config = encoder.config
  kept = {
    name: getattr(config, name)
    for name in (
      "step",
      "source",
      "architecture",
      "up_axis",
      "colour_fill",
      "system",
    )
  }
  variables = jax.tree.map(np.asarray, dict(encoder.variables))
  if config.system == "pointbert":
    kept["architecture"] = config.architecture.size
    params = {k: v for k, v in variables["params"].items() if k != "proj"}
    variables["params"] = params
  return Start(checkpoint, which, **kept), variables


def read(workdir: Path, checkpoint: str, which: str) -> Start:
  """Reads the start of a run that goes on: its checkpoints have the weights.

  So it can go on when the encoder was trained further, or is gone.

  Args:
    workdir: The run.
    checkpoint: What was asked for now.
    which: Likewise.

  Raises:
    BadInput: if the run started from another one.
  """
  file = workdir / START_FILE
  remedy = "fine-tune again in another --workdir"
  values = read_json(file, remedy)
  try:
    system = values.get("system", "pointbert")
    section = SYSTEMS[system].Size if system != "pointbert" else PointBERTSize
    size = build(section, values.pop("architecture"), "architecture")
    check(size, "architecture")
    start = Start(**values, architecture=size)
    # One name for one place; "" is from scratch.
    places = {x and os.path.abspath(x) for x in (start.checkpoint, checkpoint)}
  except (AttributeError, BadInput, KeyError, TypeError) as error:
    raise BadInput(f"{file} is damaged ({error}); {remedy}") from error
  if len(places) > 1 or start.which != which:
    raise BadInput(
      f"{file} says that this run started from {start.checkpoint!r} "
      f"({start.which}), not {checkpoint!r} ({which}); name that as "
      "--checkpoint and --which, or another --workdir"
    )
  return start
