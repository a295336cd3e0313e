"""Embeds clouds with a trained encoder: what users load and call.

encoder = load_encoder("runs/demo")
embeddings = encoder(points)  # (B, N, 3 or 6) -> (B, D), unit length
"""

import dataclasses
import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.config.pretraining import UpAxis
from mrd_jax.encoder import files, named, published
from mrd_jax.encoder.card import LIBRARY, model_card
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.encoder.input import TOO_FEW, few_points, prepare_cloud
from mrd_jax.errors import BadInput
from mrd_jax.io.files import write_text
from mrd_jax.io.hub import Repository
from mrd_jax.zoo.registry import NAMES, SYSTEMS

_SMALLEST_BUCKET = 256  # points
_NAMED = 8  # rows in a warning


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained encoder, ready to embed clouds.

  Attributes:
    config: What is known about it.
    variables: {"params", "batch_stats"} of `model`.
    model: The Flax module.
  """

  config: EncoderConfig
  variables: Any
  model: Any

  @classmethod
  def make(
    cls, config: EncoderConfig, variables: Any, dtype: str = "float32"
  ) -> "Encoder":
    """Makes an encoder of its config and variables, on the first device."""
    if dtype not in ("float32", "bfloat16"):
      raise BadInput(f"dtype is {dtype!r}, must be 'float32' or 'bfloat16'")
    system = SYSTEMS[config.system]
    model = system.make(config.architecture, dtype=jnp.dtype(dtype))
    return cls(config, jax.device_put(variables, jax.local_devices()[0]), model)

  def __call__(
    self,
    points: Any,
    *,
    up: UpAxis = "y",
    normalize: bool | None = None,
    batch_size: int = 32,
  ) -> np.ndarray:
    """Embeds clouds; the same cloud gives the same embedding every time.

    Warns (UserWarning) of clouds with fewer than 16 different points.

    Args:
      points: (B, N, 3 or 6): xyz in any unit, and rgb in [0, 1] (a grey where
        there are no colours); or a sequence of B clouds of different N.
      up: The axis of `points` that is up; clouds that are z up are turned.
      normalize: Whether clouds are centred and scaled into the unit ball; None
        does what the system's protocol says, which is to do it but for
        PointCLIP's.
      batch_size: How many clouds at a time.

    Returns:
      (B, D) float32, unit length.

    Raises:
      BadInput: naming the row, for another shape, a masked array, values that
        are not finite numbers, colours more than 1e-2 beyond [0, 1], or a
        cloud whose points all coincide.
    """
    if not hasattr(points, "__len__"):
      raise BadInput("points is no array and no list of clouds")
    if getattr(points, "ndim", 3) != 3:
      raise BadInput(
        f"points has shape {points.shape}, must be (B, N, 3) or (B, N, 6), or "
        "a list of clouds; one cloud alone is points[None]"
      )
    clouds = []
    for row, cloud in enumerate(points):
      try:
        clouds.append(self.prepare(cloud, up=up, normalize=normalize))
      except BadInput as error:
        raise BadInput(f"points[{row}]: {error}") from None
    few = [str(row) for row, cloud in enumerate(clouds) if few_points(cloud)]
    if few:
      more = ", ..." if len(few) > _NAMED else ""
      rows = ", ".join(few[:_NAMED]) + more
      warnings.warn(f"points[{rows}]: {TOO_FEW}", stacklevel=2)
    return self.embed(clouds, batch_size=batch_size)

  def prepare(
    self, points: Any, *, up: UpAxis = "y", normalize: bool | None = None
  ) -> np.ndarray:
    """Makes one cloud as the model takes it; see `prepare_cloud`.

    Args:
      points: (N, 3 or 6).
      up: The axis of `points` that is up.
      normalize: Whether to centre on the mean and scale into the unit ball;
        None does what the system's protocol says.

    Returns:
      (min(N, config.num_points), 6) float32.

    Raises:
      BadInput: if it is no cloud that can be embedded.
    """
    return prepare_cloud(
      points, self.config.preparation, up=up, normalize=normalize
    )

  def embed(
    self, clouds: Sequence[np.ndarray], *, batch_size: int = 32
  ) -> np.ndarray:
    """Embeds clouds that `prepare` made.

    Clouds are padded to a few sizes, powers of two up to `config.num_points`,
    and so are batches, up to `batch_size`: the program is compiled once for
    each pair that occurs.

    Args:
      clouds: B arrays (n, 6), of different n.
      batch_size: How many at a time.

    Returns:
      (B, D) float32, unit length.
    """
    if batch_size < 1:
      raise BadInput(f"batch_size is {batch_size}, must be at least 1")
    width = self.config.dim
    embeddings = np.zeros((len(clouds), width), np.float32)
    buckets: dict[int, list[int]] = {}
    for row, cloud in enumerate(clouds):
      size = max(_power_of_two(len(cloud)), _SMALLEST_BUCKET)
      size = max(min(size, self.config.num_points), len(cloud))
      buckets.setdefault(size, []).append(row)
    for size, rows in sorted(buckets.items()):
      for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        batch = min(_power_of_two(len(part)), batch_size)
        points = np.zeros((batch, size, 6), np.float32)
        num_points = np.ones(batch, np.int32)
        for i, row in enumerate(part):
          num_points[i] = len(clouds[row])
          points[i, : num_points[i]] = clouds[row]
        found = _embed(self.model, self.variables, points, num_points)
        embeddings[part] = np.asarray(found)[: len(part)]
    for row, embedding in enumerate(embeddings):
      if not np.isfinite(embedding).all():  # SparseConv's, beyond its voxels
        raise BadInput(
          f"points[{row}] is too wide to be embedded; centre and scale it"
        )
    return embeddings

  def save_pretrained(
    self, directory: str | os.PathLike[str], *, license: str | None = None
  ) -> None:
    """Writes a model folder in Hugging Face's form, with a model card.

    Args:
      directory: Gets config.json, model.safetensors and README.md.
      license: Of the weights, as an identifier of Hugging Face ("apache-2.0");
        by default what the config says.  The data may demand one.

    Raises:
      BadInput: if the folder holds another config.json or README.md: a run's,
        a project's.
    """
    directory = Path(directory)
    card = directory / "README.md"
    if card.exists() and LIBRARY not in card.read_text():
      raise BadInput(
        f"{card} exists and is not a model card of mrd_jax, so it is not "
        "replaced; name another folder"
      )
    config = dataclasses.replace(
      self.config, license=license or self.config.license
    )
    files.write(
      directory / files.WEIGHTS_FILE,
      directory / files.CONFIG_FILE,
      config,
      self.variables,
    )
    write_text(card, model_card(config))

  @classmethod
  def from_pretrained(
    cls,
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str = "float32",
  ) -> "Encoder":
    """Loads a model folder, from disk or from the Hugging Face hub.

    Args:
      source: A folder, or the name of a repository, "user/model".
      revision: Branch, tag or commit of the repository.
      dtype: Type of the matrix work, "float32" or "bfloat16".

    Raises:
      BadInput: if there is no such model, or it cannot be fetched.
    """
    path = Path(source)
    if not path.exists():
      hub = Repository(str(source), revision)
      path = hub.get(files.WEIGHTS_FILE).parent
    return cls.make(*files.read(path), dtype)


def load_encoder(
  path: str | os.PathLike[str],
  checkpoint: str = "latest",
  *,
  weights: str | os.PathLike[str] | None = None,
  revision: str | None = None,
  dtype: str = "float32",
  **given: Any,
) -> Encoder:
  """Loads an encoder onto one device.

  load_encoder("runs/demo")
  load_encoder("uni3d-l")
  load_encoder("recon", weights="model.pth", groups=32, group_size=128)

  Warns (UserWarning) if a file is not the one that its name says.

  Args:
    path: A run's folder, as given to `mrd_jax.main`; a model folder
      (`save_pretrained`, `convert from-torch`); a published .pt, .pth or
      .safetensors file of any system of `zoo/`, or one of ours
      (`convert to-torch`); a folder or .safetensors file of a whole CLIP, as
      transformers and open_clip write them, for PointCLIP; or the name of a
      published model (`mrd models`), also as "NAME@REVISION" or "NAME:FILE".
    checkpoint: Of a run: "latest", or "best" by its `checkpoint.best_metric`.
    weights: Of a name: its file, instead of the hub's.
    revision: Of a name: branch, tag or commit of the hub's repository.
    dtype: Type of the matrix work, "float32" or "bfloat16".
    **given: What a published file does not say, see `published.read`.

  Raises:
    BadInput: if there is nothing to load, naming what is missing.
  """
  if checkpoint not in ("latest", "best"):
    raise BadInput(f"checkpoint is {checkpoint!r}, must be 'latest' or 'best'")
  reference = named.parse(os.fspath(path))
  if weights or revision:
    # Said beside it, it is the name, whatever is called so here.
    if os.fspath(path) not in NAMES:
      raise BadInput(
        f"{path} is no name of a published model (mrd models), which alone has "
        "weights and a revision"
      )
    reference = named.Reference(
      os.fspath(path), revision or "", os.fspath(weights or "")
    )
  if reference:
    path, source = named.find(reference)
    config = published.read(path, reference.name, source, **given)
    return Encoder.make(*config, dtype)
  path = Path(path)
  if published.is_file(path):
    return Encoder.make(*published.read(path, **given), dtype)
  if given:
    raise BadInput(
      f"{path} is no published file, which alone leaves {', '.join(given)} open"
    )
  is_run = (path / "checkpoints").is_dir()  # whatever was exported into it
  if path.suffix == ".safetensors" or (
    (path / files.WEIGHTS_FILE).exists() and not is_run
  ):
    return Encoder.make(*files.read(path), dtype)
  if (path / "start.json").exists():
    raise BadInput(
      f"{path} is a fine-tuned classifier, not an encoder; name what it "
      "started from, which its start.json says"
    )
  if path.is_file():
    raise BadInput(
      f"{path} is neither a folder nor a file of .safetensors, .pt or .pth"
    )
  if not os.path.exists(path):
    raise named.unknown(str(path))
  return Encoder.make(*files.read_run(path, checkpoint), dtype)


@functools.partial(jax.jit, static_argnums=0)
def _embed(
  model: Any, variables, points_BN6: jax.Array, num_points_B: jax.Array
) -> jax.Array:
  x_BD = model.apply(variables, points_BN6, num_points_B, train=False)
  return x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)


def _power_of_two(n: int) -> int:
  """Returns the smallest power of two that is not below n."""
  return 1 << (n - 1).bit_length()


def fingerprint(encoder: Encoder) -> str:
  """Returns the first 12 digits of the SHA-256 of an encoder's weights.

  Of their names, types, shapes and values: a run and the model folder that was
  made of it have the same, another run of the same config another.
  """
  leaves = jax.tree_util.tree_leaves_with_path(encoder.variables)
  named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  digest = hashlib.sha256()
  for name in sorted(named):
    value = np.ascontiguousarray(named[name])
    digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:12]
