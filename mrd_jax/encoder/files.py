"""Reads and writes encoders: weights in safetensors, all else in JSON; runs.

The tensors have the names of the system's authors, OpenShape's of a PointBERT,
so that one file serves JAX, PyTorch (`convert/pointbert_torch.py`) and the
authors' own code.  The JSON says what the tensors cannot: it is `config.json` in a model folder, as on Hugging
Face, and `NAME.json` beside a single file `NAME.safetensors`.
"""

import dataclasses
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.config.fields import build, check, field
from mrd_jax.config.pretraining import Config, UpAxis
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json, replacing, write_json
from mrd_jax.zoo import openshape, tensors
from mrd_jax.zoo.registry import SYSTEMS
from mrd_jax.zoo.system import Order, Preparation

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_FORMAT = {"model_type": "mrd_jax.encoder", "format": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
  """What one has to know to use an encoder, besides its weights.

  It is checked when it is made: BadInput names the field that does not fit.
  """

  system: str = field("pointbert", "A key of `zoo.registry.SYSTEMS`.")
  name: str = field("", "A key of `zoo.registry.NAMES`; empty for others.")
  architecture: Any = field(MISSING, "The `Size` of that system.")
  up_axis: UpAxis = field(MISSING, "What is up in the clouds that it sees.")
  num_points: int = field(
    MISSING, "Points drawn of a larger cloud.", between=(1, 2**24 - 1)
  )
  colour_fill: float = field(
    MISSING, "The grey of clouds without colours.", between=(0, 1)
  )
  order: Order = field("shuffled", "Which points are drawn, in which order.")
  normalized: bool = field(
    True, "Whether clouds are centred and scaled into the unit ball."
  )
  sampled_points: int = field(
    0,
    "Of how many farthest points those drawn are; 0: of no more.",
    between=(0, 2**24 - 1),
  )
  embedding_space: str = field(MISSING, "The teacher, in words.")
  logit_scale: float | None = field(
    None, "ln(1 / temperature) of the contrast, if known.", between=(-1e3, 1e3)
  )
  step: int = field(
    0, "Training steps done; 0 if unknown.", between=(0, 2**63 - 1)
  )
  training_config: dict[str, Any] | None = field(None, "Of a run of ours.")
  data: dict[str, Any] | None = field(
    None, "What it was trained on: name, teacher, records."
  )
  results: dict[str, Any] | None = field(None, "results.json of the weights.")
  source: str = field("", "Where the weights come from, in words.")
  license: str | None = field(None, "Of the weights, if it was stated.")

  def __post_init__(self):
    check(self, "")
    if self.system not in SYSTEMS:
      raise BadInput(
        f"system is {self.system!r}, must be one of {', '.join(SYSTEMS)}"
      )
    size: Any = SYSTEMS[self.system].Size
    if not isinstance(self.architecture, size):
      raise BadInput(f"architecture must be a {size.__module__}.Size")
    check(self.architecture, "architecture")

  @property
  def preparation(self) -> Preparation:
    """Says how it takes a cloud."""
    return Preparation(*(getattr(self, x) for x in Preparation._fields))

  @property
  def embed_dim(self) -> int | None:
    """D of the projection; None without."""
    return self.architecture.embed_dim

  @property
  def dim(self) -> int:
    """D, width of the embeddings."""
    return self.embed_dim or self.architecture.width


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
  state = to_state(config, variables)
  state = {prefix + key: value for key, value in state.items()}
  weights.parent.mkdir(parents=True, exist_ok=True)
  with replacing(weights) as temporary:
    # "format" tells Hugging Face's tools whose names these are.
    safetensors.numpy.save_file(state, temporary, metadata={"format": "pt"})
    write_sidecar(sidecar, config)
    temporary.chmod(sidecar.stat().st_mode)  # the library's: its user's only


def to_state(config: EncoderConfig, variables: Any) -> tensors.State:
  """Takes an encoder's variables by the names of the system's authors."""
  if config.system == "pointbert":
    return openshape.to_state_dict(variables, num_batches_tracked=config.step)
  return tensors.to_state(
    SYSTEMS[config.system].table(config.architecture), variables
  )


def to_variables(config: EncoderConfig, state: Any, name: str) -> Any:
  """Makes the variables of an encoder of a state dict, see `tensors`.

  Raises:
    BadInput: naming the file, if its tensors are not the config's.
  """
  system, size = SYSTEMS[config.system], config.architecture
  try:
    return tensors.to_variables(
      system.table(size),
      system.make(size),
      state,
      name,
      unused=system.is_unused,
    )
  except BadInput as error:
    raise BadInput(f"{error}: it is not {system.NAME} of {size}") from None


def write_sidecar(path: Path, config: EncoderConfig) -> None:
  """Writes the JSON, over one of ours at most."""
  check_replaceable(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json(path, _FORMAT | dataclasses.asdict(config))


def check_replaceable(sidecar: Path) -> None:
  """Raises BadInput if a JSON is there that is not an encoder's."""
  if sidecar.exists() and not is_ours(sidecar):
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
  sidecar = weights.parent / CONFIG_FILE
  if not path.is_dir() or not sidecar.is_file():
    sidecar = find_sidecar(weights)
  if sidecar is None:
    raise BadInput(
      f"{weights} has no {weights.stem}.json or {CONFIG_FILE} beside it, which "
      "says how points are grouped; for a file that is not ours, run "
      "python -m mrd_jax.convert from-torch"
    )
  config = read_sidecar(sidecar)
  state = {
    key.removeprefix("module."): value
    for key, value in read_safetensors(weights).items()
  }
  return config, to_variables(config, state, str(weights))


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
  for name, found in (("data.json", data), ("results.json", results)):
    if not isinstance(found, dict):
      raise BadInput(f"{workdir / name} is no dict of fields: mend it")
  if isinstance(values, dict) and "model_type" in values:
    raise BadInput(f"{workdir / WEIGHTS_FILE} does not exist")
  try:
    config = Config.from_dict(values)
  except BadInput as error:
    raise BadInput(f"{workdir / CONFIG_FILE}: {error}") from None
  chosen_by = config.checkpoint.best_metric if checkpoint == "best" else None
  step, state = load_on_one_device(
    workdir / "checkpoints", best_metric=chosen_by, without=("opt_state",)
  )
  # Without an average that field is empty: no checksum would miss it.
  params = state.get("average") or state["params"]
  if results.get("step") != step:
    # So that an exported model still says what it was chosen by.
    rule = "best" if chosen_by else "last"
    results = {"step": step, "checkpoint": rule, "selected_by": chosen_by}
  try:
    encoder_config = EncoderConfig(
      architecture=openshape.Size(
        **vars(config.model.size),
        embed_dim=params["encoder"]["proj"]["bias"].shape[0],
      ),
      up_axis=config.augment.up_axis,
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
  except BadInput as error:
    raise BadInput(f"{workdir}: {error}") from None
  encoder = {"params": params["encoder"], "batch_stats": state["batch_stats"]}
  return encoder_config, encoder


def find_sidecar(weights: Path) -> Path | None:
  """Finds the JSON of a file of weights: its own, or its model folder's."""
  own, shared = weights.with_suffix(".json"), weights.with_name(CONFIG_FILE)
  if own.is_file():
    return own
  of_folder = weights.suffix == ".safetensors" and shared.is_file()
  return shared if of_folder and is_ours(shared) else None


def is_ours(sidecar: Path) -> bool:
  """Says whether a JSON describes an encoder."""
  return _FORMAT["model_type"] in sidecar.read_text()


def read_safetensors(path: Path) -> tensors.State:
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
  system = values.get("system", "pointbert")
  if not isinstance(system, str) or system not in SYSTEMS:
    raise BadInput(
      f"{path}: system is {system!r}, must be one of {', '.join(SYSTEMS)}"
    )
  section, size = SYSTEMS[system].Size, values.get("architecture")
  sizes = {field.name for field in dataclasses.fields(section)}
  if not isinstance(size, dict) or size.keys() != sizes:
    raise BadInput(
      f"{path}: architecture must have the fields {', '.join(sorted(sizes))}"
    )
  fields = dataclasses.fields(EncoderConfig)
  for known in fields:
    if known.name not in values and known.default is MISSING:
      raise BadInput(f"{path} lacks the field {known.name}")
  try:
    values["architecture"] = build(section, size, "architecture")
    return EncoderConfig(
      **{f.name: values[f.name] for f in fields if f.name in values}
    )
  except BadInput as error:
    raise BadInput(f"{path}: {error}") from None
