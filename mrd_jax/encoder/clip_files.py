"""Reads the image towers of whole CLIPs, for the systems that look at views.

A CLIP is a folder, or a .safetensors file in it, with a JSON that says what no
tensor does, such as the activation: transformers' `config.json`, or open_clip's.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrd_jax.encoder.files import read_safetensors
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json
from mrd_jax.models.clip import ImageTowerSize, TowerSize
from mrd_jax.models.clip_resnet import ResNetSize
from mrd_jax.models.layers import EPSILON
from mrd_jax.teachers import files, weights
from mrd_jax.zoo import layouts, openai_clip, tensors

_OPEN_CLIP = "open_clip_model.safetensors"
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_VISION = {"image_size", "layers", "width", "head_width", "mlp_ratio"} | {
  "patch_size",
  "patch_dropout",  # of training
}


class Tower(NamedTuple):
  """The image tower of a CLIP.

  Attributes:
    state: Its tensors, by OpenAI's names.
    logit_scale: ln(1 / temperature).
    size: What its JSON says.
  """

  state: dict[str, Any]
  logit_scale: float | None
  size: ImageTowerSize | ResNetSize


def find(path: Path) -> Path | None:
  """Finds the JSON of a CLIP; None if there is none.

  Args:
    path: A folder or a file.
  """
  if not path.is_dir() and path.suffix != ".safetensors":
    return None
  folder = path if path.is_dir() else path.parent
  config, file = folder / _OPEN_CLIP_CONFIG, folder / _OPEN_CLIP
  if path in (folder, file) and config.is_file() and file.is_file():
    return config
  config = folder / files.CONFIG
  if not config.is_file():
    return None
  if not path.is_dir() and path.with_suffix(".json").is_file():
    return None  # a file with a JSON of its own is one of ours
  values = read_json(config)
  is_clip = isinstance(values, dict) and values.get("model_type") == "clip"
  return config if is_clip else None


def read(path: Path, config: Path) -> Tower:
  """Reads an image tower.

  Args:
    path: As `find` takes it.
    config: What `find` gave.

  Raises:
    BadInput: naming the file and the field or tensor that does not fit.
  """
  if config.name == _OPEN_CLIP_CONFIG:
    path = config.with_name(_OPEN_CLIP)
    state, logit_scale = layouts.state_dict(read_safetensors(path), str(path))
    state = {k: v for k, v in state.items() if k.startswith("visual.")}
    return Tower(state, logit_scale, _open_clip_size(config, state))
  whole = weights.read_size(config)
  paths = files.find_weights(path) if path.is_dir() else [path]
  params, _ = weights.load_params(
    paths,
    whole,
    np.dtype(np.float32),
    np.asarray,  # pyright: ignore[reportArgumentType]
  )
  size = ImageTowerSize(
    whole.embed_dim, whole.vision, whole.image_size, whole.patch_size
  )
  state = tensors.to_state(openai_clip.image_table(size), {"params": params})
  return Tower(state, float(params["logit_scale"]), size)


def _open_clip_size(
  path: Path, state: dict[str, Any]
) -> ImageTowerSize | ResNetSize:
  """Reads `open_clip_config.json`."""
  values = read_json(path)
  try:
    model = values["model_cfg"]
    vision = model["vision_cfg"]
    odd = [key for key in vision if key not in _VISION and vision[key]]
    if odd:
      raise ValueError(f"vision_cfg has {odd[0]}, which is not known")
    if isinstance(vision["layers"], list):
      size = openai_clip.image_size(state)
      if not isinstance(size, ResNetSize):
        raise ValueError("layers is a list, but the tensors are no ResNet's")
      return size
    size = ImageTowerSize(
      embed_dim=model["embed_dim"],
      vision=TowerSize(
        width=vision["width"],
        depth=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        mlp_dim=int(vision["width"] * vision.get("mlp_ratio", 4)),
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        epsilon=EPSILON,
      ),
      image_size=vision["image_size"],
      patch_size=vision["patch_size"],
    )
    tower = size.vision
    counts = size.embed_dim, size.image_size, size.patch_size, tower.width
    counts += tower.depth, tower.heads, tower.mlp_dim
    if any(type(x) is not int or not 0 < x < 2**24 for x in counts):
      raise ValueError("sizes must be whole numbers above 0")
    if tower.width % tower.heads or size.patch_size > size.image_size:
      raise ValueError("heads or patches do not fit the width or the image")
    return size
  except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
    raise BadInput(
      f"{path}: is no model_cfg of a CLIP ({error!r}); fetch it again"
    ) from error
  except ValueError as error:
    raise BadInput(f"{path}: {error}; name another CLIP") from error
