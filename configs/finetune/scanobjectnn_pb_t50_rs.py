"""ScanObjectNN, PB_T50_RS (`python -m mrd_jax.prepare scanobjectnn`)."""

from ml_collections import ConfigDict

from configs.finetune import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.data.update(
    dir="data/scanobjectnn",
    train="scanobjectnn_pb_t50_rs_train",
    test="scanobjectnn_pb_t50_rs_test",
  )
  return config
