"""CG3D, "CLIP goes 3D" (Deepti Hegde et al., 2023), with its transformer.

The transformer is Point-BERT's.  The same authors' PointMLP is another network.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mrd_jax.zoo import point_bert, prompts
from mrd_jax.zoo.system import Page, Preparation, Release, Texts
from mrd_jax.zoo.tensors import Row, linear, shapes

NAME = "CG3D"

TEACHER = "SLIP ViT-B/16"
UNSAID = ("groups", "group_size")


@dataclasses.dataclass(frozen=True)
class Size(point_bert.Size):
  """The architecture."""

  groups: int = 64
  group_size: int = 32


def release(size: Any, parameters: int, file: str) -> Release:
  """Describes a published model, of either network."""
  return Release(
    size,
    parameters,
    Page("https://github.com/deeptibhegde/CLIP-goes-3D", file),
    None,
    # A class's text has another length than the next one's.
    Texts(("This is a {}",), prompts.SLIP, pooling="sum"),
    ("CG3D", "ShapeNet"),
    differs="which of its files the row is of, of 1,024 or 8,192 points, is "
    "not published",
  )


RELEASES = {
  "cg3d-transformer": release(
    Size(384, 12, 1536, 256, 3, 512), 22_252_544, "PointTransformer"
  )
}


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the size of a state dict; None if it is another system's."""
  sizes = point_bert.read_size(state, "")
  projection = shapes(state, {"projection.weight": 2})
  if sizes is None or projection is None:
    return None
  return Size(**sizes, embed_dim=projection[0][0])


def table(size: Size) -> list[Row]:
  """Lists the names of all tensors."""
  return point_bert.rows(size, "") + linear("projection", "projection")


def preparation(size: Size) -> Preparation:
  """Says how the system takes a cloud."""
  del size
  # There are weights for 1,024 and for 8,192 points; no file says which.
  return Preparation(1024, order="farthest")


def teacher(size: Size) -> str:
  """Names the embedding space, by its teacher."""
  del size
  return TEACHER


def is_unused(key: str) -> bool:
  """Says whether a file may hold a tensor that does not embed clouds."""
  return key.startswith("cls_head_finetune.")


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """Makes the encoder of a size."""
  return point_bert.PointBERT(size, projection_bias=True, dtype=dtype)
