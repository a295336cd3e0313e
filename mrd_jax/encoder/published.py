"""Reads encoders that others have published, without PyTorch."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrd_jax.encoder import clip_files, files, named
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.errors import BadInput
from mrd_jax.io import torch_file
from mrd_jax.zoo import layouts, openshape
from mrd_jax.zoo.registry import NAMES, SYSTEMS, identify
from mrd_jax.zoo.tensors import few

# Of a config, which can be given; besides the fields of a system's `Size`.
FIELDS = ("up_axis", "num_points", "embedding_space")


def is_file(path: Path) -> bool:
  """Says whether a path is a file with all that we know of an encoder.

  One of .safetensors with our JSON beside it is `files.read`'s.  A whole CLIP
  may be a folder.
  """
  if clip_files.find(path):
    return True
  if path.suffix not in (".pt", ".pth", ".safetensors") or not path.is_file():
    return False
  sidecar = files.find_sidecar(path)
  is_exported = sidecar is not None and files.is_ours(sidecar)
  return path.suffix != ".safetensors" or not is_exported


def read(
  path: Path, name: str = "", source: str = "", **given
) -> tuple[EncoderConfig, Any]:
  """Reads an encoder of any system of `zoo/`, or exported by `convert`.

  Its contents say which system it is and how large.  What they do not say
  comes from, in this order, `given`, the JSON that an export left beside the
  file, and what the system's authors publish.

  Warns (UserWarning) if they are not those of the named model.

  Args:
    path: A .pt, .pth or .safetensors file, or a whole CLIP (`clip_files`).
    name: The published model that it is to be, a key of `NAMES`.
    source: Where it comes from, in words; empty: its name.
    **given: Fields of the system's `Size` that no file says, its `UNSAID`, and
      any of `FIELDS`.

  Returns:
    The config, and the variables as nested dicts of float32 numpy arrays.

  Raises:
    BadInput: naming the file and what is missing or does not fit, also if it
      is of another system than the name's.
  """
  clip = clip_files.find(path)
  tower = clip_files.read(path, clip) if clip else None
  state, logit_scale = tower[:2] if tower else read_state(path)
  of_json = {"tower": tower.size} if tower else {}
  source = source or path.name
  if name:
    key, release = NAMES[name]
    system = SYSTEMS[key]
    size = system.infer(state)
    if size is None:
      keys = {row.key for row in system.table(release.size)}
      if 2 * len(keys & state.keys()) > len(state):
        lacking = few(sorted(keys - state.keys()))
        raise BadInput(f"{path} lacks {lacking}, which {name} has")
      other = SYSTEMS[identify(state, str(path))[0]].NAME
      raise BadInput(f"{path} is {other}, and {name} is {system.NAME}")
    unsaid = {x: getattr(release.size, x) for x in system.UNSAID}
    size = dataclasses.replace(size, **unsaid, **of_json)
    source = f"{name}: {source}"
    if other := named.differing(key, size, release):
      source += f" ({other})"
      warnings.warn(f"{path} is loaded as {name}, but {other}", stacklevel=3)
  else:
    key, size = identify(state, str(path))
    size = dataclasses.replace(size, **of_json)
  system = SYSTEMS[key]
  sidecar = None if name or tower else files.find_sidecar(path)
  # What groups a PointBERT's points is in none of its tensors.
  if sidecar and (key == "pointbert" or files.is_ours(sidecar)):
    config = files.read_sidecar(sidecar)
  else:
    config = _as_published(path, key, size, source, given)
    if name:  # else nobody knows whose weights they are
      config = dataclasses.replace(config, license=NAMES[name][1].license)
  of_config = {k: v for k, v in given.items() if k in FIELDS}
  of_size = {k: v for k, v in given.items() if k not in FIELDS}
  if odd := sorted(of_size.keys() - {*system.UNSAID}):
    raise BadInput(
      f"{path} is {system.NAME}, of which {', '.join(odd)} cannot be given, "
      f"only {', '.join((*system.UNSAID, *FIELDS))}"
    )
  config = dataclasses.replace(
    config,
    name=name,
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
  path: Path, key: str, size: Any, source: str, given: dict
) -> EncoderConfig:
  """Returns the config of a file that is not ours."""
  system = SYSTEMS[key]
  what = f"by its shapes {system.NAME}; what is not in it is as published"
  if key == "pointbert":
    known = openshape.published(size)
    what = "a PyTorch file; what is not in it was given or assumed"
    what = f"by its shapes {known.name}" if known else what
    missing = [x for x in openshape.Grouping._fields if x not in given]
    if openshape.known_grouping(size) is None and missing:
      flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
      raise BadInput(
        f"{path} is a PointBERT of {openshape.describe(size)}, not one that "
        "OpenShape published, and the file does not say how it groups points: "
        f"give {flags}"
      )
  prepared: dict[str, Any] = system.preparation(size)._asdict()
  return EncoderConfig(
    system=key,
    architecture=size,
    embedding_space=system.teacher(size),
    source=f"{source}, {what}",
    **prepared,
  )
