"""Runs the whole comparison."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from mrd_jax.compare import errors, stages, training
from mrd_jax.compare.errors import Row
from mrd_jax.config.pretraining import Config
from mrd_jax.convert import pointbert_modules
from mrd_jax.data import batches, dataset
from mrd_jax.data.examples import Examples
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.encoder.input import prepare_records
from mrd_jax.errors import BadInput
from mrd_jax.models.pointbert import PointBERT


class Tolerances(NamedTuple):
  """Largest relative differences that pass; see `docs/pytorch.md` for why.

  Attributes:
    stage: Of a stage of the encoder.
    term: Of a loss term, over the total loss.
    gradient: Of a module's gradient.
    pooled_gradient: Of the mini-PointNet's, which depends on which of two
      nearly equal values is the maximum; None demands nothing.
    update: Of what the optimizers make of the same gradients.
  """

  stage: float
  term: float
  gradient: float
  pooled_gradient: float | None
  update: float


TOLERANCES = {
  # Set when attention had its softmax in float32 (docs/pytorch.md).
  "float64": Tolerances(1e-6, 1e-6, 1e-6, 1e-6, 1e-12),
  "float32": Tolerances(1e-5, 1e-6, 1e-5, 2e-2, 1e-6),
  "bfloat16": Tolerances(5e-2, 2e-2, 1e-1, None, 1e-6),  # against float32
}


def read_examples(
  data: Path, split: str, config: EncoderConfig, count: int
) -> Examples:
  """Reads the first shapes of a split as evaluation sees them.

  Args:
    data: Prepared dataset.
    split: One of its splits.
    config: Says how many points are drawn and what is up.
    count: How many shapes.

  Raises:
    BadInput: if there is no such data, or its features have another width
      than the embeddings.
  """
  meta = dataset.read_meta(data)
  source = dataset.open_split(data, split)
  if meta.embed_dim != (config.dim):
    raise BadInput(
      f"--data: features of {data} have width {meta.embed_dim}, the encoder's "
      f"embeddings {config.dim}; name a "
      "dataset made with its teacher"
    )
  if len(source) < count:
    raise BadInput(
      f"--batch is {count}, split {split!r} of {data} has {len(source)} shapes"
    )
  rows = range(count)
  batch = batches.pad_records(map(source.__getitem__, rows), rows, meta)
  shapes = prepare_records(batch, config.preparation)
  taken = (getattr(shapes, name) for name in Examples._fields)
  return Examples(*map(jnp.asarray, taken))


def compare(
  encoder: Encoder,
  model: pointbert_modules.Projected,
  examples: Examples,
  *,
  dtypes: tuple[str, ...],
  device: str = "cpu",
) -> list[Row]:
  """Runs both sides and holds them against each other.

  Args:
    encoder: Ours.
    model: PyTorch's, with the weights to compare with, in float32.
    examples: Clouds and teacher features.
    dtypes: Some of "float64", "float32", "bfloat16".
    device: PyTorch's device.

  Returns:
    A row for every stage of every part.
  """
  model = model.to(device)
  examples = jax.device_get(examples)
  snapped = stages.snap(examples)
  trained = encoder.config.training_config
  setting = training.make_setting(
    Config.from_dict(trained) if trained else Config(),  # the paper's
    encoder.config.logit_scale,
  )
  rows = []
  size = encoder.config.architecture
  for part, clouds, tolerance in (
    ("points", snapped, 0.0),
    ("unrounded points", examples, None),
  ):
    chosen = stages.jax_indices(size, clouds)
    expected = stages.torch_indices(size, clouds, device)
    rows += [
      errors.of_indices(part, name, chosen[name], expected[name], tolerance)
      for name in (stages.SAMPLES, stages.NEIGHBOURS)
    ]
  for dtype in dtypes:
    with jax.enable_x64(dtype == "float64"):
      variables = encoder.variables
      if dtype == "float64":
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
      ours = encoder.model.clone(dtype=jnp.dtype(dtype))
      model = model.to(torch.float64 if dtype == "float64" else torch.float32)
      for train in (False, True):
        run_torch = functools.partial(
          stages.torch_forward, model, snapped, train=train
        )
        rows += _rows(
          f"{'train' if train else 'eval'} {dtype}",
          stages.jax_forward(ours, variables, snapped, train=train),
          run_torch(bfloat16=False),
          run_torch(bfloat16=True) if dtype == "bfloat16" else None,
          TOLERANCES[dtype].stage,
        )
      rows += _step(setting, ours, variables, model, snapped, dtype)
  return rows


def _step(
  setting: training.Setting,
  encoder: PointBERT,
  variables: Any,
  model: pointbert_modules.Projected,
  examples: Examples,
  dtype: str,
) -> list[Row]:
  """Takes one training step: loss terms, gradients, updated parameters."""
  limits = TOLERANCES[dtype]
  start = jax.device_get(training.start_params(setting, variables["params"]))
  ours = training.jax_step(setting, encoder, variables, examples)
  theirs = training.torch_step(setting, model, examples, bfloat16=False)
  rounded = None
  if dtype == "bfloat16":
    rounded = training.torch_step(setting, model, examples, bfloat16=True)

  rows = _rows(
    f"loss {dtype}",
    ours.terms,
    theirs.terms,
    rounded and rounded.terms,
    limits.term,
    scale=abs(theirs.terms["loss"]),
  )
  rows += _rows(
    f"gradients {dtype}",
    training.modules(ours.gradients),
    training.modules(theirs.gradients),
    rounded and training.modules(rounded.gradients),
    limits.gradient,
    others={training.POINT_NET: limits.pooled_gradient},
  )
  if rounded is None:  # an optimizer's work is float32 at least
    updated = training.jax_update(setting.optimizer, start, theirs.gradients)
    rows += _rows(
      f"optimizer, same gradients {dtype}",
      training.modules(updated),
      training.modules(theirs.params),
      None,
      limits.update,
    )

  def update(step: training.Step) -> dict[str, Any]:
    return training.modules(jax.tree.map(np.subtract, step.params, start))

  # Adam's first step is the sign of a gradient, also of one that is zero but
  # for rounding: what differs by it is told, not judged.
  return rows + _rows(
    f"whole step {dtype}",
    update(ours),
    update(theirs),
    rounded and update(rounded),
    None,
  )


def _rows(
  part: str,
  ours: dict[str, Any],
  theirs: dict[str, Any],
  rounded: dict[str, Any] | None,
  tolerance: float | None,
  *,
  others: Mapping[str, float | None] | None = None,
  scale: float | None = None,
) -> list[Row]:
  """Makes a row for each of our stages.

  Args:
    part: See `Row`.
    ours: Results by stage.
    theirs: PyTorch's.
    rounded: PyTorch's in bfloat16.
    tolerance: Of the stages,
    others: but for these.
    scale: See `errors.of_values`.
  """
  rows = []
  for name, value in ours.items():
    if name == stages.EMBEDDING:
      compare_pair = errors.of_embeddings
    else:
      compare_pair = functools.partial(errors.of_values, scale=scale)
    limit = (others or {}).get(name, tolerance)
    row = compare_pair(part, name, value, theirs[name], limit)
    if rounded:
      own = compare_pair(part, name, rounded[name], theirs[name], None)
      row = row._replace(torch_relative=own.relative)
    rows.append(row)
  return rows
