"""MRD-S on ShapeNet alone (52.5K shapes), the paper's ablation setting."""

from ml_collections import ConfigDict

from configs import mrd_s


def get_config() -> ConfigDict:
  config = mrd_s.get_config()
  config.data.dir = "data/openshape-shapenet"
  config.data.split = "train_shapenet_only"
  config.train.batch_size = 192
  config.train.epochs = 70.0
  config.eval.zero_shot = ("lvis", "modelnet40", "scanobjectnn")
  return config
