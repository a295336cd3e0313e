"""Says what kind of devices this process has, and what runs on them."""

import jax

from mrd_jax.errors import BadInput


def cuda_capability() -> float:
  """Returns the compute capability of this process's NVIDIA GPU, or 0.

  8.0 is an A100, 9.0 an H100 or H200.  AMD's GPUs, which name theirs in
  another way, have none.
  """
  device = jax.local_devices()[0]
  capability = str(getattr(device, "compute_capability", ""))
  is_number = capability.replace(".", "").isdigit()
  return float(capability) if device.platform == "gpu" and is_number else 0.0


def takes(field: str, value: str, *, runs: bool, needs: str) -> bool:
  """Says whether a field of the config takes the form that only some GPUs run.

  Args:
    field: Its name.
    value: "auto" takes the form where it runs, "xla" never; any other asks for
      it.
    runs: Whether it runs here.
    needs: What it needs, in words.

  Raises:
    BadInput: if it is asked for and cannot run.
  """
  if value not in ("auto", "xla") and not runs:
    raise BadInput(f"{field} is {value!r}, which needs {needs}; use 'auto'")
  return runs and value != "xla"
