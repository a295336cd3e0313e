"""Lowers kernels for a Hopper GPU, on a machine without one."""

import pytest


@pytest.fixture
def hopper(monkeypatch):
  from jax.experimental.mosaic.gpu import core, utils

  from mrd_jax.parallel import devices

  asked = [m for m in (core, utils) if hasattr(m, "_infer_arch")]
  if not asked:
    pytest.skip("this jax asks for the GPU's architecture elsewhere")
  for module in asked:
    monkeypatch.setattr(module, "_infer_arch", lambda: (9, 0))
  monkeypatch.setattr(devices, "cuda_capability", lambda: 9.0)
