"""Exports an encoder as ONNX, for runtimes without Python or PyTorch."""

import importlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrd_jax.convert.pointbert_modules import Projected


class _Unit(nn.Module):
  """points (B, N, 6), prepared -> embedding (B, D), unit length."""

  def __init__(self, model: Projected):
    super().__init__()
    self.model = model

  def forward(self, points: Tensor) -> Tensor:
    x = self.model(points[..., :3], points)
    return x / x.norm(dim=-1, keepdim=True)


def export(model: Projected, path: Path, config: dict[str, Any]) -> None:
  """Writes an encoder as ONNX.

  Input `points`: (B, N, 6) float32, any B and N, each cloud as `prepare` of
  `pointbert_torch` returns it. Output `embedding`: (B, D) float32, unit
  length. `config` is the file's metadata "config", as JSON. Sampling is
  unrolled, one step a group: an M encoder takes a minute or two. Weights above
  1.5 GiB go to a second file, `path` with .data added.

  Args:
    model: in float32, in eval mode, on the CPU.
    path: the file to write, .onnx by custom.
    config: of the model.

  Raises:
    ModuleNotFoundError: without the packages.
  """
  for package in ("onnx", "onnxscript"):  # an extra; before a file is written
    importlib.import_module(package)
  from onnx_ir.passes.common import ClearMetadataAndDocStringPass

  example = torch.rand(2, 64, 6)  # sizes of 1 would not be exported as any
  log = logging.getLogger("torch.onnx._internal.exporter._registration")
  level = log.level
  try:
    log.setLevel(logging.ERROR)  # it misses torchvision, which we do not use
    with warnings.catch_warnings():
      # torch.export copies its own objects in a way that it deprecated.
      warnings.filterwarnings(
        "ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning
      )
      program = torch.onnx.export(
        _Unit(model).eval(),
        (example,),
        input_names=["points"],
        output_names=["embedding"],
        dynamic_shapes={
          "points": {
            0: torch.export.Dim("clouds"),
            1: torch.export.Dim("points"),
          }
        },
        dynamo=True,
        verbose=False,
      )
  finally:
    log.setLevel(level)
  assert program is not None
  # It would hold this machine's paths.
  ClearMetadataAndDocStringPass()(program.model)
  program.model.metadata_props["config"] = json.dumps(config)
  program.save(path)
