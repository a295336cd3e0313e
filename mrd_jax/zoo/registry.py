"""Lists the systems and their published models, and finds what a file is of."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.zoo import (
  cg3d,
  cg3d_pointmlp,
  clip2point,
  openshape,
  pointclip,
  recon,
  reconpp,
  spconv,
  ulip,
  uni3d,
)
from mrd_jax.zoo.system import Release, System
from mrd_jax.zoo.tensors import few

# By the name in a model's config.json.  Of a file of CLIP's own both view
# systems can be made; it is taken for PointCLIP's, which has no other.
SYSTEMS: dict[str, System] = {
  "pointbert": openshape,
  "spconv": spconv,
  "uni3d": uni3d,
  "ulip": ulip,
  "recon": recon,
  "reconpp": reconpp,
  "cg3d": cg3d,
  "cg3d_pointmlp": cg3d_pointmlp,
  "pointclip": pointclip,
  "clip2point": clip2point,
}
# The published models by name, and the key of their system.
NAMES: dict[str, tuple[str, Release]] = {
  name: (key, release)
  for key, system in SYSTEMS.items()
  for name, release in system.RELEASES.items()
}


def identify(state: Mapping[str, np.ndarray], name: str) -> tuple[str, Any]:
  """Finds the system and the size of a state dict.

  Args:
    state: Arrays by the published keys, without a trainer's prefix.
    name: The file, for messages.

  Returns:
    A key of `SYSTEMS` and a `Size` of it.

  Raises:
    BadInput: if it is of no system that is known.
  """
  for key, system in SYSTEMS.items():
    size = system.infer(state)
    if size is not None:
      return key, size
  known = ", ".join(system.NAME for system in SYSTEMS.values())
  raise BadInput(
    f"{name} is of no system that is known ({known}); it holds {few(state)}"
  )
