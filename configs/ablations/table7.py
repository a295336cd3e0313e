"""Table 7: the weight of the relation losses, lambda of Eq. 13.

The paper's column of values is lost in its text; it says that 3 is the best,
which is its third row of five.
"""

from mrd_jax.evaluate.published import BASE as PAPER_BASE
from mrd_jax.evaluate.published import zero_shot

BASE = "configs/mrd_t_shapenet.py"
ROWS = {
  "Base": {"loss.intra": False, "loss.cross": False},
  **{f"lambda {x}": {"loss.relation_weight": float(x)} for x in range(1, 6)},
}
PUBLISHED = {
  "Base": PAPER_BASE,
  "lambda 1": zero_shot(11.8, 21.2, 26.0, 72.9, 87.8, 92.1, 55.5, 75.2, 83.5),
  "lambda 2": zero_shot(11.5, 20.8, 25.7, 72.9, 88.0, 92.8, 55.8, 75.4, 84.3),
  "lambda 3": zero_shot(11.8, 21.2, 25.8, 74.2, 88.3, 90.9, 55.7, 75.7, 83.0),
  "lambda 4": zero_shot(11.5, 20.9, 25.9, 73.7, 87.6, 91.5, 53.7, 74.9, 84.4),
  "lambda 5": zero_shot(11.5, 20.8, 25.6, 72.4, 87.2, 91.3, 52.5, 72.5, 81.9),
}
