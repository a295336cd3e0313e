"""Small .h5 files in the layout of ScanObjectNN's and ModelNet40's."""

import h5py
import numpy as np


def clouds(count, seed=0, points=16):
  """(count, points, 3) float32, tallest along y."""
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(count, points, 3)) * (1, 5, 1)).astype(np.float32)


def write_h5(path, data, label, **others):
  path.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, "w") as file:
    for name, values in {"data": data, "label": label, **others}.items():
      if values is not None:
        file[name] = values
  return path
