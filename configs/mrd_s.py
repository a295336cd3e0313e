"""MRD-S on the ensembled dataset (the paper's 876K shapes)."""

import dataclasses

from ml_collections import ConfigDict

from configs import base
from mrd_jax.config.pretraining import SIZES


def get_config() -> ConfigDict:
  config = base.get_config()
  config.model.update(dataclasses.asdict(SIZES["s"]))
  return config
