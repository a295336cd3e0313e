"""Converts encoders to PyTorch and ONNX."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch

from mrd_jax.convert import pointbert_torch, torch_files
from mrd_jax.encoder import files, published
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.errors import BadInput
from mrd_jax.io.files import naming
from mrd_jax.zoo.registry import SYSTEMS
from mrd_jax.zoo.tensors import State


def to_torch(
  encoder: Encoder, out: Path, *, style: torch_files.Style = "bare"
) -> list[Path]:
  """Writes the weights under the authors' names, and the JSON beside them.

  They are OpenShape's of a PointBERT, of another system those of its table in
  `zoo/`, as its authors' code loads them.  A .pt file is OpenShape's
  {"state_dict", "logit_scale"}; a .safetensors file holds the state dict alone,
  and the JSON the logit scale.

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
    raise BadInput(f"--output is {out}, must end in .safetensors or .pt")
  return [out, sidecar]


def to_onnx(encoder: Encoder, out: Path) -> list[Path]:
  """Writes an ONNX file, and the JSON beside it.

  Returns:
    The files written.
  """
  from mrd_jax.convert import onnx_export  # needs more than PyTorch

  if out.suffix != ".onnx":
    raise BadInput(f"--output is {out}, must end in .onnx")
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
  state, _ = published.read_state(path)
  files.to_variables(config, state, str(path))  # complete, and finite
  return _build(config, {k: np.asarray(v) for k, v in state.items()})


def _state(encoder: Encoder) -> State:
  return files.to_state(encoder.config, encoder.variables)


def _build(config: EncoderConfig, state: State) -> pointbert_torch.TorchEncoder:
  if config.system != "pointbert":
    raise BadInput(
      f"the encoder is {SYSTEMS[config.system].NAME}; only a PointBERT is "
      "written as a PyTorch module"
    )
  model = pointbert_torch.build(dataclasses.asdict(config))
  # A copy: what JAX lends is read-only, which PyTorch does not know.
  model.load_state_dict(
    {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
  )
  return model.eval()
