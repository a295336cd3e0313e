"""Reads encoders that others have published, without PyTorch."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrd_jax.encoder import files
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.errors import BadInput
from mrd_jax.io import torch_file
from mrd_jax.zoo import layouts, openshape
from mrd_jax.zoo.registry import SYSTEMS, identify

# Of a config, which can be given; besides the fields of a system's `Size`.
FIELDS = ("up_axis", "num_points", "embedding_space")


def read(path: Path, **given) -> tuple[EncoderConfig, Any]:
  """Reads an encoder of any system of `zoo/`, or exported by `convert`.

  Its contents say which system it is and how large.  What they do not say
  comes from, in this order, `given`, the JSON that an export left beside the
  file, and what the system's authors publish.

  Args:
    path: A .pt, .pth or .safetensors file.
    **given: Fields of the system's `Size` that no file says (`groups`,
      `group_size`, `radius`, `voxel_size`), and any of `FIELDS`.

  Returns:
    The config, and the variables as nested dicts of float32 numpy arrays.

  Raises:
    BadInput: naming the file and what is missing or does not fit.
  """
  state, logit_scale = read_state(path)
  key, size = identify(state, str(path))
  sidecar = path.with_suffix(".json")
  if not sidecar.is_file() and path.name == files.WEIGHTS_FILE:
    sidecar = path.with_name(files.CONFIG_FILE)  # a model folder of ours
  if sidecar.is_file():
    config = files.read_sidecar(sidecar)
  else:
    config = _as_published(path, key, size, given)
  of_config = {k: v for k, v in given.items() if k in FIELDS}
  of_size = {k: v for k, v in given.items() if k not in FIELDS}
  known = {field.name for field in dataclasses.fields(config.architecture)}
  if odd := sorted(of_size.keys() - known):
    raise BadInput(
      f"{path} is {SYSTEMS[key].NAME}, which has no {', '.join(odd)}"
    )
  config = dataclasses.replace(
    config,
    architecture=dataclasses.replace(config.architecture, **of_size),
    logit_scale=config.logit_scale if logit_scale is None else logit_scale,
    **of_config,
  )
  variables = files.to_variables(config, state, str(path))
  step = openshape.num_batches_tracked(state) or config.step
  return dataclasses.replace(config, step=step), variables


def read_state(path: Path) -> tuple[Mapping[str, Any], float | None]:
  """Reads the tensors of a file in any of the published layouts.

  Returns:
    Tensors by the authors' keys, without a trainer's prefixes; and
    ln(1 / temperature), None if the file does not say.

  Raises:
    BadInput: if the file is missing, damaged, or holds anything but tensors
      and plain values.
  """
  of_torch = path.suffix != ".safetensors"
  load = torch_file.read if of_torch else files.read_safetensors
  state, logit_scale = layouts.state_dict(load(path), str(path))
  return layouts.encoder_state(state, str(path)), logit_scale


def _as_published(
  path: Path, key: str, size: Any, given: dict
) -> EncoderConfig:
  """Returns the config of a file that is not ours."""
  system = SYSTEMS[key]
  source = f"by its shapes {system.NAME}; what is not in it is as published"
  if key == "pointbert":
    known = openshape.published(size)
    source = "a PyTorch file; what is not in it was given or assumed"
    source = f"by its shapes {known.name}" if known else source
    missing = [x for x in openshape.Grouping._fields if x not in given]
    if openshape.known_grouping(size) is None and missing:
      flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
      raise BadInput(
        f"{path} is a PointBERT of {openshape.describe(size)}, not one that "
        "OpenShape published, and the file does not say how it groups points: "
        f"give {flags}"
      )
  points, up_axis, order, normalized, colour_fill = system.preparation(size)
  return EncoderConfig(
    system=key,
    architecture=size,
    up_axis=up_axis,
    num_points=points,
    order=order,
    normalized=normalized,
    colour_fill=colour_fill,
    embedding_space=system.teacher(size),
    source=f"{path.name}, {source}",
  )
