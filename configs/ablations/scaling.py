"""Table 6: sizes T to L on the ensembled dataset."""

import dataclasses

from mrd_jax.config.pretraining import SIZES

BASE = "configs/mrd_m.py"
ROWS = {
  f"MRD-{name.upper()}": {
    f"model.{field}": value for field, value in dataclasses.asdict(size).items()
  }
  for name, size in SIZES.items()
}
PUBLISHED = {
  "MRD-T": {"modelnet40/top1": 86.7, "lvis/top1": 47.6},
  "MRD-S": {"modelnet40/top1": 88.6, "lvis/top1": 51.4},
  "MRD-M": {"modelnet40/top1": 88.0, "lvis/top1": 52.5},
  "MRD-B": {"modelnet40/top1": 88.8, "lvis/top1": 53.2},
  "MRD-L": {"modelnet40/top1": 87.3, "lvis/top1": 53.6},
}
