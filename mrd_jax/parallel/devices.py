"""Says what kind of devices this process has."""

import jax


def cuda_capability() -> float:
  """Returns the compute capability of this process's NVIDIA GPU, or 0.

  8.0 is an A100, 9.0 an H100 or H200.  AMD's GPUs, which name theirs in
  another way, have none.
  """
  device = jax.local_devices()[0]
  capability = str(getattr(device, "compute_capability", ""))
  is_number = capability.replace(".", "").isdigit()
  return float(capability) if device.platform == "gpu" and is_number else 0.0
