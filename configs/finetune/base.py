"""Point-BERT's fine-tuning recipe: every field but the data's splits.

`docs/configuration.md` lists the fields.
"""

from ml_collections import ConfigDict

from mrd_jax.config.fields import as_config_dict
from mrd_jax.config.finetuning import Config


def get_config() -> ConfigDict:
  return as_config_dict(Config())
