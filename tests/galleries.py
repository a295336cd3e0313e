"""Galleries of made-up embeddings, and the plain form of a search."""

import json
from pathlib import Path

import numpy as np

from mrd_jax.metrics import embeddings

SOURCE = {
  "checkpoint": "model",
  "step": 7,
  "weights": "0123456789ab",
  "embedding_space": "a teacher",
  "up": "y",
  "normalize": True,
}


def unit(x: np.ndarray) -> np.ndarray:
  return embeddings.unit(np.asarray(x, np.float32))


def write_gallery(path: Path, x: np.ndarray, save=np.savez, **changes) -> Path:
  """An .npz as embed writes it; an array that is None is left out."""
  arrays = {
    "files": np.array([f"{i}.ply" for i in range(len(x))]),
    "embeddings": x,
    "source": np.array(json.dumps(SOURCE)),
  }
  arrays |= changes
  save(path, **{k: v for k, v in arrays.items() if v is not None})
  return path


def clustered(n: int, width: int, seed: int = 0):
  """n shapes in clusters, and queries: near shapes, and like texts.

  Texts, as CLIP's, share a direction that no shape has, and are nearly as far
  from their own cluster as from the others.
  """
  rng = np.random.default_rng(seed)

  def noise(rows: int) -> np.ndarray:
    return rng.normal(size=(rows, width)) / width**0.5

  centres, shared = noise(100), noise(2)
  x = unit(centres[rng.integers(0, 100, n)] + 0.7 * noise(n) + shared[0])
  near = unit(x[:: n // 40][:40] + 0.3 * noise(40))
  texts = unit(0.5 * centres[:40] + 0.3 * noise(40) + 1.5 * shared[1])
  return x, near, texts


def naive(x, query, top, shift=0.0, scale=1.0, threshold=-np.inf):
  """Rows by the least of (cosine - shift) / scale, ties by row; cosines."""
  cosine = x.astype(np.float64) @ query.T.astype(np.float64)
  score = ((cosine - shift) / scale).min(axis=1).round(12)
  order = [i for i in range(len(x)) if (cosine[i] >= threshold).all()]
  order.sort(key=lambda i: (-score[i], i))
  return order[:top], score, cosine
