"""Reads and writes encoders: weights in safetensors, all else in JSON; runs.

The tensors have OpenShape's names, so that one file serves JAX, PyTorch
(`convert/pointbert_torch.py`) and OpenShape's own code.  The JSON says what
the tensors cannot: it is `config.json` in a model folder, as on Hugging
Face, and `NAME.json` beside a single file `NAME.safetensors`.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.config.pretraining import PointBERTSize, UpAxis, from_config_dict
from mrd_jax.encoder import names
from mrd_jax.errors import BadInput
from mrd_jax.io import hub
from mrd_jax.io.files import read_json, replacing, write_json

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_FORMAT = {"model_type": "mrd_jax.pointbert", "format": 1}


def _is_count(value: Any) -> bool:
  return type(value) is int and 0 < value < 2**24


def _is_between(value: Any, low: float, high: float) -> bool:
  return type(value) in (int, float) and low <= value <= high


_Check = tuple[Callable[[Any], bool], str]
_COUNT: _Check = _is_count, "a whole number above 0"
_TEXT: _Check = lambda x: type(x) is str, "a text"
_OBJECT: _Check = lambda x: x is None or type(x) is dict, "an object or null"
# What the fields of `EncoderConfig` must be.
_CHECKS: dict[str, _Check] = {
  **{field.name: _COUNT for field in dataclasses.fields(PointBERTSize)},
  "radius": (lambda x: _is_between(x, 1e-6, 4), "a number from 1e-6 to 4"),
  "embed_dim": (
    lambda x: x is None or _is_count(x),
    "a whole number above 0, or null",
  ),
  "up_axis": (lambda x: x in ("y", "z"), "'y' or 'z'"),
  "num_points": _COUNT,
  "colour_fill": (lambda x: _is_between(x, 0, 1), "a number from 0 to 1"),
  "embedding_space": _TEXT,
  "logit_scale": (
    lambda x: x is None or _is_between(x, -1e3, 1e3),
    "a number from -1000 to 1000, or null",
  ),
  "step": (lambda x: type(x) is int and x >= 0, "a whole number"),
  "training_config": _OBJECT,
  "data": _OBJECT,
  "results": _OBJECT,
  "source": _TEXT,
  "license": (lambda x: x is None or type(x) is str, "a text or null"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
  """What one has to know to use an encoder, besides its weights.

  Attributes:
    architecture: The sizes, groups included.
    embed_dim: D of the projection; None if there is none.
    up_axis: The axis that is up in the clouds that the encoder sees.
    num_points: Most points of a cloud; of a larger one so many are drawn.
    colour_fill: The grey of clouds without colours.
    embedding_space: The teacher, in words.
    logit_scale: ln(1 / temperature) of the contrastive loss; None if unknown.
    step: Training steps done; 0 if unknown.
    training_config: The run's config, None if it was not ours.
    data: What it was trained on: name, teacher, records.
    results: The run's results.json for these weights.
    source: Where the weights come from, in words.
    license: Of the weights; None if it was not stated.
  """

  architecture: PointBERTSize
  embed_dim: int | None
  up_axis: UpAxis
  num_points: int
  colour_fill: float
  embedding_space: str
  logit_scale: float | None = None
  step: int = 0
  training_config: dict[str, Any] | None = None
  data: dict[str, Any] | None = None
  results: dict[str, Any] | None = None
  source: str = ""
  license: str | None = None

  def __post_init__(self):
    """Raises BadInput, naming the field, if a value is of another kind."""
    for name, value in {**vars(self.architecture), **vars(self)}.items():
      if name in _CHECKS:
        fits, kind = _CHECKS[name]
        if not fits(value):
          raise BadInput(f"{name} is {value!r}, must be {kind}")


def write(
  weights: Path,
  sidecar: Path,
  config: EncoderConfig,
  variables: Any,
  *,
  prefix: str = "",
) -> None:
  """Writes the two files; if that fails, older ones are left as they were.

  Args:
    weights: The .safetensors file.
    sidecar: The JSON.
    config: Its content.
    variables: {"params", "batch_stats"}.
    prefix: Of every tensor's name.
  """
  check_replaceable(sidecar)
  state = names.to_state_dict(variables, num_batches_tracked=config.step)
  state = {prefix + key: value for key, value in state.items()}
  weights.parent.mkdir(parents=True, exist_ok=True)
  with replacing(weights) as temporary:
    # "format" tells Hugging Face's tools whose names these are.
    safetensors.numpy.save_file(state, temporary, metadata={"format": "pt"})
    write_sidecar(sidecar, config)
    temporary.chmod(sidecar.stat().st_mode)  # the library's: its user's only


def write_sidecar(path: Path, config: EncoderConfig) -> None:
  """Writes the JSON, over one of ours at most."""
  check_replaceable(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json(path, _FORMAT | dataclasses.asdict(config))


def check_replaceable(sidecar: Path) -> None:
  """Raises BadInput if a JSON is there that is not an encoder's."""
  if sidecar.exists() and _FORMAT["model_type"] not in sidecar.read_text():
    raise BadInput(
      f"{sidecar} exists and does not describe an encoder, so it is not "
      "replaced; name another place to write to"
    )


def read(path: Path) -> tuple[EncoderConfig, Any]:
  """Reads a model folder or a .safetensors file with its JSON beside it.

  Returns:
    The config, and the variables as nested dicts of float32 numpy arrays.

  Raises:
    BadInput: naming the file, if one is missing or does not fit.
  """
  weights = path / WEIGHTS_FILE if path.is_dir() else path
  if not weights.is_file():
    raise BadInput(
      f"{weights} does not exist; of a run's folder, load_encoder and "
      "save_pretrained make a model folder"
    )
  # In a folder, config.json is the one that was written with the weights.
  sidecar = path / CONFIG_FILE
  config = read_sidecar(sidecar if sidecar.is_file() else find_sidecar(weights))
  state = {
    key.removeprefix("module."): value
    for key, value in read_safetensors(weights).items()
  }
  shapes = names.infer_shapes(state, str(weights))
  check_architecture(config, shapes, str(weights))
  return config, names.from_state_dict(state, str(weights))


def read_run(workdir: Path, checkpoint: str) -> tuple[EncoderConfig, Any]:
  """Reads an encoder from a run's folder, the averaged one where it kept one.

  Args:
    workdir: The folder.
    checkpoint: "latest", or "best" by the run's `checkpoint.best_metric`.

  Returns:
    The config and the variables, on this process's first device.

  Raises:
    BadInput: naming the file that is missing or damaged.
  """
  if not (workdir / CONFIG_FILE).exists():
    raise BadInput(
      f"{workdir} holds no run and no model: config.json is missing; name the "
      "folder that was given to mrd_jax.main as --workdir"
    )
  values, data, results = (
    read_json(workdir / name, "bring it back from a copy")
    if (workdir / name).exists()
    else {}
    for name in (CONFIG_FILE, "data.json", "results.json")
  )
  if "model_type" in values:
    raise BadInput(f"{workdir / WEIGHTS_FILE} does not exist")
  config = from_config_dict(values)
  chosen_by = config.checkpoint.best_metric if checkpoint == "best" else None
  step, state = load_on_one_device(
    workdir / "checkpoints", best_metric=chosen_by, without=("opt_state",)
  )
  params = state["average"] or state["params"]
  if results.get("step") != step:
    # So that an exported model still says what it was chosen by.
    rule = "best" if chosen_by else "last"
    results = {"step": step, "checkpoint": rule, "selected_by": chosen_by}
  encoder_config = EncoderConfig(
    architecture=config.model.size,
    embed_dim=params["encoder"]["proj"]["bias"].shape[0],
    up_axis="z" if config.augment.swap_yz else "y",
    num_points=config.augment.num_points,
    colour_fill=config.augment.colour_fill,
    embedding_space=data.get("teacher", "unknown"),
    logit_scale=float(params["logit_scale"]),
    step=step,
    training_config=values,
    data=data or None,
    results=results,
    source="trained with mrd_jax",
  )
  variables = {
    "params": params["encoder"],
    "batch_stats": state["batch_stats"],
  }
  return encoder_config, variables


def find_sidecar(weights: Path) -> Path:
  """Finds the JSON that belongs to a file of weights.

  Raises:
    BadInput: if there is none.
  """
  candidates = weights.with_suffix(".json"), weights.parent / CONFIG_FILE
  for candidate in candidates:
    if candidate.is_file():
      return candidate
  raise BadInput(
    f"{weights} has no {candidates[0].name} or {CONFIG_FILE} beside it, which "
    "says how points are grouped; for a file that is not ours, run "
    "python -m mrd_jax.convert from-torch"
  )


def read_safetensors(path: Path) -> names.State:
  """Reads the tensors of a .safetensors file.

  Raises:
    BadInput: if it is damaged or of another kind.
  """
  try:
    return safetensors.numpy.load_file(path)
  except (
    safetensors.SafetensorError,
    AttributeError,  # a type that numpy does not have
    KeyError,
    OSError,
    ValueError,
  ) as error:
    raise BadInput(
      f"{path} cannot be read as safetensors ({error}); it is damaged or of "
      "another kind, fetch or export it again"
    ) from error


def read_sidecar(path: Path) -> EncoderConfig:
  """Reads and checks the JSON.

  Raises:
    BadInput: naming the file and the field.
  """
  values = read_json(path, "fetch or export it again")
  kind = isinstance(values, dict) and values.pop("model_type", None)
  if kind != _FORMAT["model_type"]:
    raise BadInput(f"{path} does not describe an encoder of mrd_jax")
  version = values.pop("format", None)
  if version != _FORMAT["format"]:
    raise BadInput(
      f"{path} has format {version!r}, this version of mrd_jax reads "
      f"{_FORMAT['format']}; install a newer mrd_jax"
    )
  sizes = {field.name for field in dataclasses.fields(PointBERTSize)}
  size = values.get("architecture")
  if not isinstance(size, dict) or size.keys() != sizes:
    raise BadInput(
      f"{path}: architecture must have the fields {', '.join(sorted(sizes))}"
    )
  values["architecture"] = PointBERTSize(**size)
  fields = dataclasses.fields(EncoderConfig)
  for field in fields:
    if field.name not in values and field.default is dataclasses.MISSING:
      raise BadInput(f"{path} lacks the field {field.name}")
  try:
    return EncoderConfig(
      **{f.name: values[f.name] for f in fields if f.name in values}
    )
  except BadInput as error:
    raise BadInput(f"{path}: {error}") from None


def check_architecture(
  config: EncoderConfig, shapes: names.Shapes, name: str
) -> None:
  """Raises BadInput, naming the file, if its tensors are not the config's."""
  size = config.architecture
  for field, found in shapes._asdict().items():
    said = config.embed_dim if field == "embed_dim" else getattr(size, field)
    if said != found:
      raise BadInput(
        f"{name}: the config says {field} {said}, the tensors have {found}: "
        "the two files do not belong together"
      )


def fetch(repository: str, revision: str | None) -> Path:
  """Downloads a model folder from the hub, or finds it in the cache.

  Args:
    repository: Its name, "user/model".
    revision: Branch, tag or commit; None is the main branch.

  Returns:
    The folder, for `read`.

  Raises:
    BadInput: in a sentence that says why it cannot be had.
  """
  return hub.Repository(repository, revision).get(WEIGHTS_FILE).parent
