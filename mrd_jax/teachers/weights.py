"""Reads Hugging Face's CLIP checkpoints into the parameters of `models/clip`.

Tensor by tensor: each parameter is assembled on the host in the type that it is
computed in, goes to the devices, and is dropped before the next one is.  The
host never holds the model.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json
from mrd_jax.models.clip import ACTIVATIONS, CLIP, CLIPSize, TowerSize

_TYPES = "F32", "F16", "BF16"
_ATTENTION = "encoder.layers.{}.self_attn."
# Our modules of a tower -> Hugging Face's, several where ours are fused.
_MODULES = {
  "layers/layer_norm1": ["encoder.layers.{}.layer_norm1"],
  "layers/qkv": [_ATTENTION + name for name in ("q_proj", "k_proj", "v_proj")],
  "layers/out_proj": [_ATTENTION + "out_proj"],
  "layers/layer_norm2": ["encoder.layers.{}.layer_norm2"],
  "layers/fc1": ["encoder.layers.{}.mlp.fc1"],
  "layers/fc2": ["encoder.layers.{}.mlp.fc2"],
  "patch_embedding": ["embeddings.patch_embedding"],
  "pre_norm": ["pre_layrnorm"],  # so spelt there
  "post_norm": ["post_layernorm"],
  "final_norm": ["final_layer_norm"],
}
# Our parameters of a tower that are no module's.
_PARAMETERS = {
  "class_embedding": "embeddings.class_embedding",
  "position_embedding": "embeddings.position_embedding.weight",
  "token_embedding": "embeddings.token_embedding.weight",
}
_TOWERS = {"vision": "vision_model", "text_model": "text_model"}


def read_size(path: Path) -> CLIPSize:
  """Reads `config.json`.

  Raises:
    BadInput: naming the file and the field.
  """
  # Hugging Face's own class knows the defaults and the quirks of old files.
  from transformers import CLIPConfig

  values = read_json(path)
  kind = values.get("model_type") if isinstance(values, dict) else None
  if kind != "clip":
    raise BadInput(
      f"{path}: model_type is {kind!r}, must be 'clip': the whole model with "
      "both towers, as transformers.CLIPModel saves it"
    )
  try:
    config = CLIPConfig.from_dict(values)
    # In __post_init__ dicts become these, None their defaults.
    vision: Any = config.vision_config
    text: Any = config.text_config
    size = CLIPSize(
      embed_dim=_count(config, "projection_dim"),
      vision=_tower(vision),
      image_size=_count(vision, "image_size"),
      patch_size=_count(vision, "patch_size"),
      text=_tower(text),
      vocabulary=_count(text, "vocab_size"),
      context=_count(text, "max_position_embeddings"),
      eos_token_id=None if text.eos_token_id == 2 else text.eos_token_id,
    )
    if vision.num_channels != 3:
      raise ValueError(f"num_channels is {vision.num_channels}, must be 3")
    if type(text.eos_token_id) is not int:
      raise ValueError(
        f"eos_token_id is {text.eos_token_id!r}, must be a whole number"
      )
    if size.patch_size > size.image_size:
      raise ValueError("patch_size is above image_size")
  except Exception as error:  # the library's checks have types of their own
    words = " ".join(str(error).split())
    raise BadInput(f"{path}: {words}") from error
  return size


def open_safetensors(path: Path) -> Any:
  """Opens a file, without reading a tensor.

  Raises:
    BadInput: if it is damaged or of another kind.
  """
  try:
    return safetensors.safe_open(path, framework="numpy")
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise BadInput(
      f"{path} cannot be read as safetensors ({error}); it is damaged or of "
      "another kind, fetch it again"
    ) from error


def load_params(
  paths: Sequence[Path],
  size: CLIPSize,
  dtype: np.dtype,
  put: Callable[[np.ndarray], jax.Array],
) -> tuple[dict[str, Any], str]:
  """Reads the parameters of `CLIP(size, dtype)`.

  Args:
    paths: The .safetensors files.
    size: Of `config.json`, which they must fit.
    dtype: Of the matrices, float32 or bfloat16; others are float32.
    put: Brings a parameter to the devices.

  Returns:
    The tree of parameters, and the SHA-256 of the tensors: of names, types,
    shapes and bytes, however they are divided into files.

  Raises:
    BadInput: naming file and tensor, if one is missing, of another shape or
      type, not finite, or unknown.
  """
  files: dict[str, tuple[Path, Any]] = {}
  for path in paths:
    file = open_safetensors(path)
    for key in file.keys():  # noqa: SIM118 (it is no dict)
      if key.endswith(".position_ids"):
        continue  # constants of old versions, in integers
      if key in files:
        raise BadInput(f"{path}: {key} is in {files[key][0]}, too")
      kind = file.get_slice(key).get_dtype()
      if kind not in _TYPES:
        raise BadInput(
          f"{path}: {key} is of type {kind}, must be one of "
          f"{', '.join(_TYPES)}; fetch a revision that is not quantised"
        )
      files[key] = path, file
  digests: dict[str, str] = {}

  def take(key: str, shape: tuple[int, ...]) -> np.ndarray:
    path, file = files[key]
    tensor = file.get_tensor(key)
    if tensor.shape != shape:
      raise BadInput(
        f"{path}: {key} has shape {tensor.shape}, the config.json beside it "
        f"says {shape}: the two files do not belong together"
      )
    if not np.isfinite(tensor).all():
      raise BadInput(
        f"{path}: the tensor {key} holds NaN or infinite values; fetch the "
        "file again"
      )
    head = f"{key} {tensor.dtype.name} {tensor.shape} ".encode()
    digest = hashlib.sha256(head)
    digest.update(tensor.reshape(-1).view(np.uint8).data)
    digests[key] = digest.hexdigest()
    return tensor

  model = CLIP(size, jnp.dtype(dtype))
  pixels = jnp.zeros((1, 3, size.image_size, size.image_size))
  tokens = mask = jnp.ones((1, 1), jnp.int32)
  key = jax.random.key(0)
  shapes = jax.eval_shape(model.init, key, pixels, tokens, mask)["params"]
  known = {
    key
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    for key in _keys(_name(path), leaf)
  }
  if missing := sorted(known - files.keys()):
    raise BadInput(
      f"{' or '.join(map(str, paths))}: the tensor {missing[0]} is missing; it "
      "is not the whole CLIPModel of the config.json beside it"
    )
  for key, (path, _) in files.items():
    if key not in known:
      raise BadInput(
        f"{path}: the tensor {key} is not one of a CLIPModel of the "
        "config.json beside it"
      )

  def load(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    name = _name(path)
    keys = _keys(name, leaf)
    value = np.empty(leaf.shape, leaf.dtype)
    # Each tensor is a run of rows of the parameter; of those of layers, the
    # first axis is the depth.
    shape = leaf.shape
    if "/layers/" in name:
      depth, rows, *columns = shape
      shape = depth * rows // len(keys), *columns
    runs = value.reshape(len(keys), *shape)
    for i, key in enumerate(keys):
      run = runs[i, ...]
      shape = run.shape
      if name.endswith("patch_embedding/weight"):
        shape = (shape[0], 3, size.patch_size, size.patch_size)
      run[...] = take(key, shape).reshape(run.shape)
    return put(value)

  params = jax.tree_util.tree_map_with_path(load, shapes)
  content = "".join(digests[key] for key in sorted(digests))
  return params, hashlib.sha256(content.encode()).hexdigest()


def _name(path: Any) -> str:
  return "/".join(part.key for part in path)


def _keys(name: str, leaf: jax.ShapeDtypeStruct) -> list[str]:
  """Hugging Face's names of one of our parameters, in the order of its rows."""
  tower, _, rest = name.partition("/")
  if tower not in _TOWERS:
    return [name.replace("/", ".")]  # the projections and logit_scale
  if rest in _PARAMETERS:
    return [f"{_TOWERS[tower]}.{_PARAMETERS[rest]}"]
  module, _, kind = rest.rpartition("/")
  kind = "weight" if kind == "scale" else kind
  depth = leaf.shape[0] if module.startswith("layers/") else 1
  return [
    f"{_TOWERS[tower]}.{template.format(layer)}.{kind}"
    for layer in range(depth)
    for template in _MODULES[module]
  ]


def _tower(config: Any) -> TowerSize:
  size = TowerSize(
    width=_count(config, "hidden_size"),
    depth=_count(config, "num_hidden_layers"),
    heads=_count(config, "num_attention_heads"),
    mlp_dim=_count(config, "intermediate_size"),
    activation=config.hidden_act,
    epsilon=float(config.layer_norm_eps),
  )
  if size.activation not in ACTIVATIONS:
    raise ValueError(
      f"hidden_act is {size.activation!r}, must be one of "
      f"{', '.join(ACTIVATIONS)}"
    )
  if size.width % size.heads:
    raise ValueError(
      f"hidden_size {size.width} is no multiple of the {size.heads} heads"
    )
  return size


def _count(config: Any, field: str) -> int:
  value = getattr(config, field)
  if type(value) is not int or not 0 < value < 2**24:
    raise ValueError(f"{field} is {value!r}, must be a whole number above 0")
  return value
