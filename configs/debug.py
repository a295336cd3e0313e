"""Seconds on a CPU: a tiny encoder on the embedded synthetic dataset."""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
  config = demo.get_config()
  config.augment.num_points = 128
  config.model.update(
    width=32, depth=2, heads=2, mlp_dim=64, sa_dim=32, groups=8, group_size=8
  )
  config.train.update(batch_size=32, epochs=0.0, steps=20)
  config.optimizer.update(warmup_epochs=0.0, warmup_steps=5)
  config.eval.update(every_epochs=0.0, every_steps=10)
  config.checkpoint.update(every_epochs=0.0, every_steps=5)
  config.log.every_steps = 1
  return config
