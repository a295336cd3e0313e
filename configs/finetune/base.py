"""Point-BERT's fine-tuning recipe: every field but the data's splits."""

import dataclasses

from ml_collections import ConfigDict

from mrd_jax.config.pretraining import SIZES


def get_config() -> ConfigDict:
  return ConfigDict(
    {
      "seed": 0,
      "profile": "",  # START:STOP, steps to trace
      "compile_cache": "",  # folder; "": as JAX is set
      "data": {
        "dir": "",  # a prepared dataset
        "train": "",  # labelled splits
        "test": "",
        "threads": 8,
        "workers": 0,
      },
      "augment": {
        "num_points": 1024,
        "sampled_points": 1200,
        "scale_low": 2 / 3,
        "scale_high": 3 / 2,
        "shift": 0.2,
      },
      # The encoder with --checkpoint ""; else the checkpoint says all this.
      "scratch": {
        **dataclasses.asdict(SIZES["m"]),
        "up_axis": "y",  # as in records
        "colour_fill": 0.4,
      },
      "model": {
        "hidden": 256,
        "dropout": 0.5,
        "drop_path": 0.1,
        "dtype": "bfloat16",  # float32 | bfloat16
        "remat": "none",  # none | blocks | all
        "attention": "xla",  # xla | cudnn
        "fps_chunk": 4096,  # clouds sampled at a time
        "query_chunk": 32,  # clouds grouped at a time
      },
      "optimizer": {
        "learning_rate": 5e-4,
        "final_learning_rate": 2e-3,  # as a share of the peak: 1e-6
        "warmup_epochs": 10.0,
        "warmup_steps": 0,
        "weight_decay": 0.05,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "clip_norm": 10.0,  # 0: no clipping
      },
      "train": {"batch_size": 32, "epochs": 300.0, "label_smoothing": 0.0},
      "mesh": {"fsdp": 1},
      "checkpoint": {"every_epochs": 1.0, "keep_latest": 2},
      "eval": {
        "every_epochs": 1.0,
        "batch_size": 128,
        "voting": 0,  # copies; 10 is usual
      },
      "log": {
        "every_steps": 50,
        "stall_seconds": 600.0,  # says what is stuck; 0: never
        "wandb": "",  # project of Weights & Biases; "": none
      },
    }
  )
