"""Table 4 (and 6): intra- and cross-modal relations, dynamic distillation."""

from mrd_jax.evaluate.published import BASE as PAPER_BASE
from mrd_jax.evaluate.published import TABLE_6, zero_shot

BASE = "configs/mrd_t_shapenet.py"
ROWS = {
  "Base": {"loss.intra": False, "loss.cross": False},
  "IR": {"loss.cross": False, "loss.weighting": "fixed"},
  "CR": {"loss.intra": False, "loss.weighting": "fixed"},
  "IR+CR": {"loss.weighting": "fixed"},
  "IR+CR+DD": {},
}
PUBLISHED = {
  "Base": PAPER_BASE,
  "IR": zero_shot(11.3, 20.0, 24.9, 73.1, 87.9, 91.0, 54.6, 76.3, 83.8),
  "CR": zero_shot(11.4, 20.3, 24.9, 72.2, 86.7, 91.7, 52.4, 75.9, 86.2),
  "IR+CR": zero_shot(11.4, 20.7, 25.4, 73.0, 87.1, 90.3, 53.5, 73.3, 81.2),
  "IR+CR+DD": zero_shot(11.8, 21.2, 25.8, 74.2, 88.3, 90.9, 55.7, 75.5, 83.0),
}
PUBLISHED = {
  row: figures | TABLE_6[row, "ShapeNet"] for row, figures in PUBLISHED.items()
}
