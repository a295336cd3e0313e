"""Converts encoders to and from PyTorch and ONNX."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrd_jax.convert import pointbert_torch, torch_files
from mrd_jax.encoder import files
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.errors import BadInput
from mrd_jax.io.files import naming
from mrd_jax.zoo import openshape
from mrd_jax.zoo.registry import SYSTEMS, identify
from mrd_jax.zoo.tensors import State

FIELDS = ("up_axis", "num_points", "embedding_space")  # of a config, given


def to_torch(
  encoder: Encoder, out: Path, *, style: torch_files.Style = "bare"
) -> list[Path]:
  """Writes the weights under OpenShape's names, and the JSON beside them.

  A .pt file is OpenShape's {"state_dict", "logit_scale"}; a .safetensors
  file holds the state dict alone, and the JSON the logit scale.

  Args:
    encoder: The encoder.
    out: NAME.safetensors or NAME.pt.
    style: Whether keys begin with "module."; see `torch_files.write`.

  Returns:
    The files written: weights, JSON.

  Raises:
    BadInput: for another suffix.
  """
  sidecar = out.with_suffix(".json")
  files.check_replaceable(sidecar)
  if out.suffix == ".safetensors":
    prefix = "module." if style == "module" else ""
    files.write(out, sidecar, encoder.config, encoder.variables, prefix=prefix)
  elif out.suffix == ".pt":
    out.parent.mkdir(parents=True, exist_ok=True)
    scale = encoder.config.logit_scale
    torch_files.write(out, _state(encoder), scale, style)
    files.write_sidecar(sidecar, encoder.config)
  else:
    raise BadInput(f"--out is {out}, must end in .safetensors or .pt")
  return [out, sidecar]


def from_torch(path: Path, **overrides) -> Encoder:
  """Reads an encoder of any system of `zoo/`, or exported by `to_torch`.

  What the tensors do not say comes from, in this order, `overrides`, the
  JSON that `to_torch` left beside the file, and what the system publishes.

  Args:
    path: A .pt, .pth or .safetensors file.
    **overrides: Fields of the system's `Size` that no file says, and any of
      `FIELDS`.

  Raises:
    BadInput: naming the file and what is missing or does not fit.
  """
  state, logit_scale = torch_files.read(path)
  key, size = identify(state, str(path))
  sidecar = path.with_suffix(".json")
  if not sidecar.is_file() and path.name == files.WEIGHTS_FILE:
    sidecar = path.with_name(files.CONFIG_FILE)  # a model folder of ours
  if sidecar.is_file():
    config = files.read_sidecar(sidecar)
  else:
    config = _published(path, key, size, overrides)
  others = {k: v for k, v in overrides.items() if k in FIELDS}
  unsaid = {k: v for k, v in overrides.items() if k not in FIELDS}
  known = {field.name for field in dataclasses.fields(config.architecture)}
  if odd := sorted(unsaid.keys() - known):
    raise BadInput(
      f"{path} is of {SYSTEMS[key].NAME}, which has no {', '.join(odd)}"
    )
  config = dataclasses.replace(
    config,
    architecture=dataclasses.replace(config.architecture, **unsaid),
    step=openshape.num_batches_tracked(state) or config.step,
    logit_scale=config.logit_scale if logit_scale is None else logit_scale,
    **others,
  )
  return Encoder.make(config, files.to_variables(config, state, str(path)))


def to_onnx(encoder: Encoder, out: Path) -> list[Path]:
  """Writes an ONNX file, and the JSON beside it.

  Returns:
    The files written.
  """
  from mrd_jax.convert import onnx_export  # needs more than PyTorch

  if out.suffix != ".onnx":
    raise BadInput(f"--out is {out}, must end in .onnx")
  sidecar = out.with_suffix(".json")
  files.check_replaceable(sidecar)
  out.parent.mkdir(parents=True, exist_ok=True)
  # A large model is two files, which are moved when they are whole.
  with naming(out), tempfile.TemporaryDirectory(dir=out.parent) as folder:
    model = torch_model(encoder)
    onnx_export.export(model, Path(folder) / out.name, model.config)
    files.write_sidecar(sidecar, encoder.config)
    written = [
      file.replace(out.parent / file.name) for file in Path(folder).iterdir()
    ]
  return [*sorted(written), sidecar]


def torch_model(encoder: Encoder) -> pointbert_torch.TorchEncoder:
  """Builds the encoder as a PyTorch module, in evaluation mode."""
  return _build(encoder.config, _state(encoder))


def read_torch_model(
  path: Path, config: EncoderConfig
) -> pointbert_torch.TorchEncoder:
  """Reads a file's weights into a module that is otherwise as the config says.

  Raises:
    BadInput: if the file is of another size.
  """
  state, _ = torch_files.read(path)
  files.to_variables(config, state, str(path))  # complete, and finite
  return _build(config, {k: np.asarray(v) for k, v in state.items()})


def _state(encoder: Encoder) -> State:
  return files.to_state(encoder.config, encoder.variables)


def _build(config: EncoderConfig, state: State) -> pointbert_torch.TorchEncoder:
  model = pointbert_torch.build(dataclasses.asdict(config))
  # A copy: what JAX lends is read-only, which PyTorch does not know.
  model.load_state_dict(
    {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
  )
  return model.eval()


def _published(
  path: Path, key: str, size: Any, overrides: dict
) -> EncoderConfig:
  """Returns the config of a file that is not ours."""
  system = SYSTEMS[key]
  if key == "pointbert" and openshape.known_grouping(size) is None:
    missing = [x for x in openshape.Grouping._fields if x not in overrides]
    if missing:
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
    source=f"{path.name}, by its shapes {system.NAME}; what is not in it was "
    "given or assumed",
  )
