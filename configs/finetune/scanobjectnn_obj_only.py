"""ScanObjectNN, OBJ_ONLY (`python -m mrd_jax.prepare scanobjectnn`)."""

from ml_collections import ConfigDict

from configs.finetune import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.data.update(
    dir="data/scanobjectnn",
    train="scanobjectnn_obj_only_train",
    test="scanobjectnn_obj_only_test",
  )
  return config
