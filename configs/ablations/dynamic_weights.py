"""Dynamic weights: how they are learned, and over which terms (no table)."""

BASE = "configs/mrd_t_shapenet.py"
ROWS = {
  "fixed": {"loss.weighting": "fixed"},
  "dynamic": {},
  "dynamic, rate x 10": {"optimizer.dynamic_learning_rate": 1e-2},
  "alternating": {"loss.weighting": "alternating"},
  "matched terms": {"loss.cross_form": "matched"},
}
PUBLISHED = {}
