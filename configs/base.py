"""Every field of a run, with the paper's values for the ensembled dataset.

`docs/configuration.md` lists the fields.  Size M; the other sizes are a line
each (`mrd_t.py` ...).
"""

from ml_collections import ConfigDict

from mrd_jax.config.fields import as_config_dict
from mrd_jax.config.pretraining import Config


def get_config() -> ConfigDict:
  return as_config_dict(Config())
