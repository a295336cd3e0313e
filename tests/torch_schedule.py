"""The learning-rate schedule, written from its definition, not from ours."""

import math


def cosine_with_warmup(
  step: int,
  *,
  peak: float,
  warmup_steps: int,
  total_steps: int,
  floor: float = 0.0,
) -> float:
  """Learning rate of the update number `step`, counted from 0.

  Linear from 0 at step 0 to peak at warmup_steps, then half a cosine down to
  floor at total_steps, where it stays.
  """
  if step < warmup_steps:
    return peak * step / warmup_steps
  done = (step - warmup_steps) / (total_steps - warmup_steps)
  cosine = (1 + math.cos(math.pi * min(done, 1.0))) / 2
  return floor + (peak - floor) * cosine
