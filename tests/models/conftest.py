"""Lowers for a Hopper GPU, on a machine without one."""

from collections.abc import Iterator

import pytest

from benchmarks import targets


@pytest.fixture
def hopper() -> Iterator[None]:
  from jax.experimental.mosaic.gpu import core, utils

  if not any(hasattr(module, "_infer_arch") for module in (core, utils)):
    pytest.skip("this jax asks for the GPU's architecture elsewhere")
  with targets.standing_in(targets.TARGETS["h100"]):
    yield
