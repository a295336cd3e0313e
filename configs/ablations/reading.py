"""Readings of Eq. 5-6: their scale, the diagonal, and whose relations.

The paper prints no temperature and speaks of a sample's relations "with
others"; `docs/losses.md` says what speaks for which.  Every other suite can be
run under a row of this one: `--reading former`.
"""

from mrd_jax.evaluate.published import BASE as PAPER_BASE

BASE = "configs/mrd_t_shapenet.py"
LOGIT_SCALE = {"loss.intra_scale": 0.0, "loss.cross_scale": 0.0}
ROWS = {
  "Base": {"loss.intra": False, "loss.cross": False},
  "default": {},
  "former": LOGIT_SCALE | {"loss.intra_diagonal": False},
  "logit scale": LOGIT_SCALE,
  "scale 5": {"loss.intra_scale": 5.0, "loss.cross_scale": 5.0},
  "intra diagonal out": {"loss.intra_diagonal": False},
  "both diagonals out": {
    "loss.intra_diagonal": False,
    "loss.cross_diagonal": False,
  },
  "image alone": {"loss.intra_teacher": "image"},
  "text alone": {"loss.intra_teacher": "text"},
}
PUBLISHED = {"Base": PAPER_BASE}
