"""The study of docs/results.md: `mini.py` for one CPU core, minutes a run."""

from ml_collections import ConfigDict

from configs import mini


def get_config() -> ConfigDict:
  config = mini.get_config()
  config.data.threads = 1
  config.augment.num_points = 512
  config.model.update(
    depth=2, mlp_dim=256, sa_dim=64, groups=32, radius=0.3, group_size=16
  )
  config.optimizer.update(learning_rate=2e-3, warmup_epochs=2.0)
  config.train.update(batch_size=128, epochs=20.0)
  config.eval.every_epochs = 20.0  # at the end
  config.checkpoint.update(every_epochs=20.0, keep_latest=1, keep_best=0)
  return config
