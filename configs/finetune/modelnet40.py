"""ModelNet40, as this makes it:

python -m mrd_jax.prepare modelnet40 --form txt --parts train,test ...
"""

from ml_collections import ConfigDict

from configs.finetune import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.data.update(
    dir="data/modelnet40",
    train="modelnet40_txt_train",
    test="modelnet40_txt_test",
  )
  return config
