"""Every field of a run, with the paper's values for the ensembled dataset.

Size M; the other sizes are a line each (`mrd_t.py` ...).
"""

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
        "dir": "data/openshape",  # a prepared dataset
        "made_from": "",  # what to make it from when it is not there
        "split": "train",
        "threads": 8,
        "workers": 0,
      },
      "augment": {
        "num_points": 10_000,
        "swap_yz": True,  # records are y up, the encoder z up
        "point_dropout": 0.875,
        "scale_low": 0.8,
        "scale_high": 1.25,
        "shift": 0.1,
        "tilt": 0.06,  # radians
        "tilt_max": 0.18,
        "rotate": True,
        "colour_drop": 0.5,
        "colour_fill": 0.4,
      },
      "model": {
        **dataclasses.asdict(SIZES["m"]),
        "dtype": "bfloat16",  # float32 | bfloat16
        "remat": "none",  # none | blocks | all
        "attention": "xla",  # xla | cudnn
        "sampling": "auto",  # auto | xla | kernel (Hopper GPUs and newer)
        "fps_chunk": 4096,  # clouds sampled at a time
        "query_chunk": 32,  # clouds grouped at a time
      },
      "loss": {
        "representation": "similarity",  # | euclidean | partial_order
        "intra": True,
        "cross": True,
        "cross_form": "full",  # | matched
        "weighting": "dynamic",  # | alternating | fixed
        "relation_weight": 3.0,  # lambda of Eq. 13
        "relation_scale": 0.0,  # 0: the logit scale, without its gradient
        "keep_diagonal": False,
        "normalize_intra": True,
        "margin": 0.1,
        "sampled_pairs": 0,  # 0: all pairs
        "form": "auto",  # dense | gather | ring: how, not what, is computed
        "stripe": 512,  # columns at a time of gather and ring
      },
      "logit_scale": {"init": 14.28, "max": 100.0},
      "optimizer": {
        "learning_rate": 1e-3,
        "dynamic_learning_rate": 1e-3,
        "final_learning_rate": 0.0,  # as a share of the peak
        "warmup_epochs": 15.0,
        "warmup_steps": 0,
        "weight_decay": 0.05,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "clip_norm": 0.0,  # 0: no clipping
        "ema_decay": 0.0,  # 0: no average
        "frozen": (),
      },
      "train": {
        "batch_size": 512,
        "accumulate": 1,  # parts that the encoder takes the batch in
        "epochs": 300.0,
        "steps": 0,
      },
      "mesh": {"fsdp": 1},
      "checkpoint": {
        "every_epochs": 1.0,
        "every_steps": 0,
        "keep_latest": 3,
        "keep_best": 1,
        "best_metric": "lvis/top1",
        "rule": "last",  # | best: which checkpoint the results are of
      },
      "eval": {
        "every_epochs": 5.0,
        "every_steps": 0,
        "batch_size": 512,
        "data_dir": "",  # where the splits are; "": in data.dir
        "zero_shot": ("lvis", "modelnet40"),
        "retrieval": (),
        "relation_gap": (),
      },
      "log": {
        "every_steps": 50,
        "stall_seconds": 600.0,  # says what is stuck; 0: never
        "wandb": "",  # project of Weights & Biases; "": none
      },
    }
  )
