"""Table 3: three representations of relations, intra-modal or cross-modal.

Weights are fixed, as in the rows IR and CR of Table 4, which appear here too.
"""

from mrd_jax.evaluate.published import BASE as PAPER_BASE
from mrd_jax.evaluate.published import zero_shot

BASE = "configs/mrd_t_shapenet.py"
INTRA = {"loss.cross": False, "loss.weighting": "fixed"}
CROSS = {"loss.intra": False, "loss.weighting": "fixed"}
ROWS = {
  "Base": {"loss.intra": False, "loss.cross": False},
  "Euclidean, intra": INTRA | {"loss.representation": "euclidean"},
  "Partial order, intra": INTRA | {"loss.representation": "partial_order"},
  "Similarity, intra": INTRA,
  "Euclidean, cross": CROSS | {"loss.representation": "euclidean"},
  "Partial order, cross": CROSS | {"loss.representation": "partial_order"},
  "Similarity, cross": CROSS,
}
PUBLISHED = {
  "Base": PAPER_BASE,
  "Euclidean, intra": zero_shot(
    11.3, 20.3, 24.9, 73.0, 87.2, 90.8, 52.1, 72.8, 84.3
  ),
  "Partial order, intra": zero_shot(
    10.0, 17.7, 21.7, 70.6, 86.8, 90.9, 53.1, 70.8, 79.0
  ),
  "Similarity, intra": zero_shot(
    11.3, 20.0, 24.9, 73.1, 87.9, 91.0, 54.6, 76.3, 83.8
  ),
  "Euclidean, cross": zero_shot(
    11.0, 20.2, 25.1, 72.9, 86.8, 90.1, 53.8, 73.1, 81.6
  ),
  "Partial order, cross": zero_shot(
    10.6, 18.6, 23.0, 71.6, 87.0, 90.5, 55.2, 74.0, 84.4
  ),
  "Similarity, cross": zero_shot(
    11.4, 20.3, 24.9, 72.2, 86.7, 91.7, 52.4, 75.9, 86.2
  ),
}
