"""ScanObjectNN, OBJ_BG (`python -m mrd_jax.prepare scanobjectnn`)."""

from ml_collections import ConfigDict

from configs.finetune import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.data.update(
    dir="data/scanobjectnn",
    train="scanobjectnn_obj_bg_train",
    test="scanobjectnn_obj_bg_test",
  )
  return config
