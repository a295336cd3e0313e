"""Fig. 6: ShapeNet with OpenShape's images and texts, or with ULIP-2's.

Make the second dataset with `python -m mrd_jax.prepare ulip2`.  The paper has
no figures besides the drawing.
"""

BASE = "configs/mrd_t_shapenet.py"
ROWS = {
  "OpenShape": {},
  "ULIP-2": {
    "data.dir": "data/ulip2",
    "data.split": "train",
    "eval.data_dir": "data/openshape-shapenet",
  },
}
PUBLISHED = {}
