"""Reads CLIP's text tower from a file that need not have an image tower.

tower = TextTower.from_file("slip_base_100ep.pt")
tower.text_features(["a red chair"])  # (1, D) float32

ULIP-1's checkpoints hold SLIP's; Uni3D's texts are EVA02-E-14-plus's, in its
open_clip_model.safetensors.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io import hub, torch_file
from mrd_jax.io.files import read_fields
from mrd_jax.io.torch_tensor import to_array
from mrd_jax.teachers import files, weights
from mrd_jax.teachers.texts import TextEmbedder, load_tokenizer
from mrd_jax.teachers.towers import Towers
from mrd_jax.zoo import layouts, openai_clip
from mrd_jax.zoo.tensors import few, to_variables

_WEIGHTS = "open_clip_model.safetensors"
_CONFIG = "open_clip_config.json"
_TOKENIZER = "openai/clip-vit-base-patch32"
# By the prefix of a tower's names: OpenAI's and SLIP's; open_clip's own, where
# the tower is a module by itself.
_ACTIVATIONS = {"": "quick_gelu", "text.": "gelu"}
# Fields of open_clip's text_cfg that change the numbers, as we compute them.
_FIXED = {
  "no_causal_mask": False,
  "embed_cls": False,
  "pool_type": "argmax",
  "act_kwargs": None,
  "norm_kwargs": None,
}


class TextTower(TextEmbedder):
  """A text tower of CLIP, SLIP or OpenCLIP; attributes are `TextEmbedder`'s."""

  @classmethod
  def from_file(
    cls,
    path: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    batch_size: int = 64,
  ) -> "TextTower":
    """Loads a text tower with OpenAI's names, bare or after `text.`.

    The activation is what the open_clip_config.json beside the file says.
    Without one it is QuickGELU, OpenAI's and SLIP's, or of names with `text.`
    exact GELU: put the config beside a file of OpenCLIP's with bare names.
    Heads are 64 wide; half precision becomes float32.

    Args:
      path: A .pt, .pth or .safetensors file, or a folder that holds
        open_clip_model.safetensors.  Of it only the text tower is read.
      tokenizer: A folder with CLIP's tokenizer, or "user/model" on the hub.
        None is that beside the file, or else OpenAI's of the hub.
      dtype: Of the matrix products, "float32" or "bfloat16".
      batch_size: Texts at a time on each device.

    Raises:
      BadInput: naming the file and what is missing or does not fit.
    """
    path = Path(path)
    name = path.resolve().name
    if path.is_dir():
      path = path / _WEIGHTS
      if not path.is_file():
        raise BadInput(f"{path} does not exist; name the file of the weights")
    whole = hashlib.sha256()
    state = _read(path, whole.update)
    size, prefix = None, ""
    for prefix in _ACTIVATIONS:
      size = openai_clip.text_size(state, prefix)
      if size is not None:
        break
    if size is None:
      raise BadInput(
        f"{path} holds no text tower of CLIP; it holds {few(state)}"
      )
    activation = _activation(path, prefix, size.text.heads)
    text = dataclasses.replace(size.text, activation=activation)
    size = dataclasses.replace(size, text=text)
    towers = Towers(size, dtype, batch_size=batch_size)
    folder = _find_tokenizer(path, tokenizer)
    loaded = load_tokenizer(
      folder,
      size.vocabulary,
      size.vocabulary - 1,  # the largest, at which a text is pooled
      f"the shapes of {path} say",
      "CLIPTokenizer",
    )
    rows = openai_clip.text_table(size, prefix)
    # Whatever else a tower has would change its numbers.
    own = {row.key.removeprefix(prefix).split(".")[0] for row in rows}
    state = {
      key: value
      for key, value in state.items()
      if (key.startswith(prefix) if prefix else key.split(".")[0] in own)
    }
    ids = jnp.ones((1, 1), jnp.int32)
    variables = to_variables(
      rows,
      towers.model,
      state,
      str(path),
      unused=lambda key: key == f"{prefix}attn_mask",  # a constant
      inputs=(ids, ids),
    )
    leaves = jax.eval_shape(towers.model.init, jax.random.key(0), ids, ids)
    towers.params = jax.tree.map(
      lambda value, leaf: towers.put(value.astype(leaf.dtype)),
      variables["params"],
      leaves["params"],
    )
    digest = whole.hexdigest()
    fingerprint = files.fingerprint(f"{digest} {size}", folder, files.TOKENIZER)
    return cls(f"{name} (sha256 {digest[:12]})", fingerprint, towers, loaded)


class _Tensor:
  """A tensor of a file that is read when it is asked for, and hashed then.

  Attributes:
    shape: As the file says.
  """

  def __init__(
    self,
    key: str,
    path: Path,
    shape: Iterable[int],
    read: Callable[[], Any],
    update: Callable[[Any], None],
  ):
    self.shape = tuple(shape)
    self._key, self._path, self._read, self._update = key, path, read, update

  def __array__(self, dtype: Any = None, copy: bool | None = None):
    name = f"{self._path}: {self._key}"
    try:
      array = to_array(self._read(), name)
    except AttributeError:  # of safetensors: a type that NumPy lacks
      array = None
    if array is None or array.dtype != np.float32:
      raise BadInput(
        f"{name} is not of float64, float32, float16 or bfloat16; fetch a file "
        "that is not quantised"
      )
    self._update(f"{self._key} {array.dtype.name} {array.shape} ".encode())
    self._update(np.ascontiguousarray(array).data)
    return array if dtype is None else array.astype(dtype, copy=False)


def _read(path: Path, update: Callable[[Any], None]) -> dict[str, Any]:
  """Finds the tensors of a file by their keys, and reads none yet."""
  state: dict[str, Any] = {}
  if path.suffix == ".safetensors":
    file = weights.open_safetensors(path)
    for key in file.keys():  # noqa: SIM118 (it is no dict)
      shape = file.get_slice(key).get_shape()
      read = functools.partial(file.get_tensor, key)
      state[key] = _Tensor(key, path, shape, read, update)
    return state
  found, _ = layouts.state_dict(torch_file.read(path), str(path))
  for key, value in found.items():
    read = functools.partial(np.asarray, value)
    state[key] = _Tensor(key, path, value.shape, read, update)
  return state


def _activation(path: Path, prefix: str, heads: int) -> str:
  """Finds the activation of a tower, and refuses one of another kind."""
  config = path.with_name(_CONFIG)
  if not config.is_file():
    return _ACTIVATIONS[prefix]
  model = read_fields(config, "fetch it again").get("model_cfg")
  text = model.get("text_cfg") if isinstance(model, dict) else None
  if not isinstance(model, dict) or not isinstance(text, dict):
    raise BadInput(f"{config} has no text_cfg in a model_cfg; fetch it again")
  for field, value in (_FIXED | {"heads": heads}).items():
    if text.get(field, value) != value:
      raise BadInput(
        f"{config}: {field} of text_cfg is {text[field]!r}, must be {value!r}: "
        "texts of this model cannot be embedded"
      )
  return "quick_gelu" if model.get("quick_gelu") else "gelu"


def _find_tokenizer(path: Path, given: str | os.PathLike[str] | None) -> Path:
  """Finds the folder of a tokenizer, or fetches it; see `from_file`."""
  folder = path.parent if given is None else Path(given)
  remedy = (
    "; put CLIP's tokenizer.json, or vocab.json with merges.txt, into a folder "
    "and name that with --tokenizer"
  )
  if not _has_tokenizer(folder) and (given is None or not folder.is_dir()):
    source = _TOKENIZER if given is None else os.fspath(given)
    repository = hub.Repository(source, None, "a tokenizer", remedy)
    for name in sorted(repository.names() & {*files.TOKENIZER}):
      repository.get(name)
    folder = repository.folder
  if not _has_tokenizer(folder):
    raise BadInput(f"{folder} holds no tokenizer{remedy}")
  return folder


def _has_tokenizer(folder: Path) -> bool:
  whole, vocabulary, merges, *_ = (
    (folder / x).is_file() for x in files.TOKENIZER
  )
  return whole or (vocabulary and merges)
