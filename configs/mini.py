"""MRD on real shapes: a small bundle in OpenShape's published layout.

The bundle is found through MRD_SHARED_DATA (2,582 training shapes with
2,048 points each, and a teacher that is not CLIP).  For your own copy of
OpenShape's data:
  --config.data.made_from=/path/to/copy --config.data.dir=data/openshape
"""

import os

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
  shared = os.environ.get("MRD_SHARED_DATA", "../shared/data")
  config = demo.get_config()
  config.data.dir = "data/openshape-mini"
  config.data.made_from = f"{shared}/openshape-mini"
  config.train.epochs = 15.0
  config.eval.update(
    every_epochs=3.0,
    zero_shot=("lvis", "modelnet40"),
    retrieval=("val",),
    relation_gap=("val",),
  )
  config.checkpoint.update(every_epochs=3.0, best_metric="lvis/top1")
  return config
