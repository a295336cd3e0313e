"""OpenShape's SparseConv against a dense convolution in float64."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.models import sparse_conv
from mrd_jax.zoo import spconv, tensors
from tests.zoo import zoo_b_weights

HERE = Path(__file__).parent
KEYS = json.loads((HERE / "keys" / "sparse_keys.json").read_text())
CASES = np.load(HERE / "cases" / "sparse_dense.npz")
VOXEL = 0.08
