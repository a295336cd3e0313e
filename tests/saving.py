"""A process that does nothing but count and save: to be killed, or starved.

python -m tests.saving DIRECTORY STEPS MEGABYTES [FLAGS OF runs.joining]

Goes on from what is in DIRECTORY, says from where, and saves every step.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.parallel import sharding


def main(directory: str, steps: str, megabytes: str, *joining: str) -> None:
  if joining:
    coordinator, count, me = (flag.split("=")[1] for flag in joining[1:])
    jax.distributed.initialize(coordinator, int(count), int(me))
  count = int(megabytes) * 2**18
  key = jax.random.key(0)

  def at(step: int) -> TrainState:
    """Noise, so that it does not compress, that says which step it is of."""
    noise = jax.random.normal(key, (count,)) + step
    return TrainState(jnp.int32(step), {"noise": noise}, {}, {}, {})

  abstract = sharding.with_state_sharding(
    sharding.make_mesh(jax.device_count()), jax.eval_shape(at, 0)
  )
  make = jax.jit(at, out_shardings=sharding.shardings_of(abstract))
  checkpoints = Checkpoints(
    Path(directory), keep_latest=2, keep_best=0, best_metric=""
  )
  start = 0
  if checkpoints.latest_step() is not None:
    restored = checkpoints.restore_newest(abstract)
    start = restored.step
    print("\n".join(restored.remarks), flush=True)
    same = jax.tree.map(
      lambda x, y: (x == y).all(), restored.state, make(jnp.int32(start))
    )
    assert all(bool(x) for x in jax.tree.leaves(same))
  print(f"from {start}", flush=True)
  for step in range(start + 1, int(steps) + 1):
    checkpoints.save(step, make(jnp.int32(step)), None)
  checkpoints.close()
  print("done", flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
