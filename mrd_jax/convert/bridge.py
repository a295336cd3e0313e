"""Converts encoders to and from PyTorch and ONNX."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch

from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.convert import pointbert_torch, published, torch_files
from mrd_jax.convert.published import Grouping
from mrd_jax.encoder import files, names
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.errors import BadInput
from mrd_jax.io.files import naming

OVERRIDES = (*Grouping._fields, "up_axis", "num_points", "embedding_space")


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
  """Reads an encoder published by OpenShape, or exported by `to_torch`.

  What the tensors do not say comes from, in this order, `overrides`, the
  JSON that `to_torch` left beside the file, and the table of published
  models.

  Args:
    path: A .pt or .safetensors file.
    **overrides: Any of `OVERRIDES`.

  Raises:
    BadInput: naming the file and what is missing or does not fit.
  """
  state, logit_scale = torch_files.read(path)
  shapes = names.infer_shapes(state, str(path))
  variables = names.from_state_dict(state, str(path))
  sidecar = path.with_suffix(".json")
  if not sidecar.is_file() and path.name == files.WEIGHTS_FILE:
    sidecar = path.with_name(files.CONFIG_FILE)  # a model folder of ours
  if sidecar.is_file():
    config = files.read_sidecar(sidecar)
    files.check_architecture(config, shapes, str(path))
  else:
    config = _published(path, shapes, overrides)
  grouping = {k: v for k, v in overrides.items() if k in Grouping._fields}
  others = {k: v for k, v in overrides.items() if k not in grouping}
  config = dataclasses.replace(
    config,
    architecture=dataclasses.replace(config.architecture, **grouping),
    step=names.num_batches_tracked(state) or config.step,
    logit_scale=config.logit_scale if logit_scale is None else logit_scale,
    **others,
  )
  return Encoder.make(config, variables)


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
  files.check_architecture(
    config, names.infer_shapes(state, str(path)), str(path)
  )
  names.from_state_dict(state, str(path))  # complete, and finite
  return _build(config, state)


def _state(encoder: Encoder) -> names.State:
  steps = encoder.config.step
  return names.to_state_dict(encoder.variables, num_batches_tracked=steps)


def _build(
  config: EncoderConfig, state: names.State
) -> pointbert_torch.TorchEncoder:
  model = pointbert_torch.build(dataclasses.asdict(config))
  # A copy: what JAX lends is read-only, which PyTorch does not know.
  model.load_state_dict(
    {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
  )
  return model.eval()


def _published(
  path: Path, shapes: names.Shapes, overrides: dict
) -> EncoderConfig:
  """Returns the config of a file that is not ours."""
  model = published.MODELS.get(shapes)
  grouping = published.known_grouping(shapes)
  missing = [name for name in Grouping._fields if name not in overrides]
  if grouping is None and missing:
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
    raise BadInput(
      f"{path} is a PointBERT of {shapes._asdict()}, not one that OpenShape "
      f"published, and the file does not say how it groups points: give {flags}"
    )
  grouping = grouping or Grouping(1, 1.0, 1)  # all of it is overridden
  return EncoderConfig(
    architecture=PointBERTSize(*shapes[:5], *grouping),
    embed_dim=shapes.embed_dim,
    up_axis=model.up_axis if model else "z",
    num_points=10_000,
    colour_fill=0.4,
    embedding_space=model.embedding_space if model else "unknown",
    source=f"{path.name}, by its shapes {model.name}"
    if model
    else f"{path.name}, a PyTorch file; what is not in it was given or assumed",
  )
