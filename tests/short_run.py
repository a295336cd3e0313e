"""A short run on two devices."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from configs import debug
from mrd_jax.config import pretraining


@contextlib.contextmanager
def on_devices(count: int) -> Iterator[None]:
  """What is set up in this block uses the first of this process's devices."""
  devices = jax.devices()[:count]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("jax.devices", lambda: devices)
    yield


def pretrained_config(data_dir: Path) -> pretraining.Config:
  """That of the fixture `pretrained`."""
  values = debug.get_config()
  values.data.dir = str(data_dir)
  values.train.steps = 12
  values.optimizer.ema_decay = 0.9
  values.checkpoint.update(every_steps=4, best_metric="val/top5")
  values.eval.update(every_steps=4, relation_gap=("val",))
  return pretraining.from_config_dict(values)
