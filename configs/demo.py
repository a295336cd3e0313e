"""The embedded default: MRD on synthetic shapes, minutes on two CPU cores."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.data.dir = "data/procedural"
  config.data.made_from = "procedural"
  config.data.threads = 2
  config.augment.num_points = 1024
  config.model.update(
    width=128,
    depth=4,
    heads=2,
    mlp_dim=512,
    sa_dim=96,
    groups=48,
    radius=0.25,
    group_size=32,
    dtype="float32",  # CPUs have no fast bfloat16
    fps_chunk=8,
    query_chunk=8,
  )
  config.train.update(batch_size=64, epochs=8.0)
  config.optimizer.update(warmup_epochs=1.0, clip_norm=1.0)
  config.eval.update(
    every_epochs=1.0, batch_size=64, zero_shot=("val",), retrieval=("val",)
  )
  config.checkpoint.update(every_epochs=1.0, best_metric="val/top1")
  config.log.every_steps = 10
  return config
