"""Seconds on a CPU: a tiny encoder on the embedded synthetic dataset."""

from ml_collections import ConfigDict

from configs.finetune import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.data.update(
    dir="data/procedural", train="train", test="val", threads=2
  )
  config.augment.update(num_points=64, sampled_points=80)
  config.scratch.update(
    width=32, depth=2, heads=2, mlp_dim=64, sa_dim=32, groups=8, group_size=8
  )
  config.model.update(hidden=32, dtype="float32", fps_chunk=8, query_chunk=8)
  config.optimizer.warmup_epochs = 1.0
  config.train.epochs = 4.0
  config.eval.batch_size = 32
  config.log.every_steps = 1
  return config
