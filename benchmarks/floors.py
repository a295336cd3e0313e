"""What an encoder cannot go below: operations over the peak of a machine.

Counts the matrix products of the equations and the activations of the widest
arrays, not those of any program: what is computed twice counts once.
"""

from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.models.pointbert import HEAD_DIM

POINT_FEATURES = 9  # xyz to the centre, xyz, rgb
POINT_NET = (64, 64)  # the hidden widths of the mini-PointNet


def forward_flops(size: PointBERTSize, embed_dim: int) -> int:
  """Operations of the matrix products for one cloud, forward."""
  widths = (POINT_FEATURES, *POINT_NET, size.sa_dim)
  points = size.groups * size.group_size
  point_net = points * sum(
    a * b for a, b in zip(widths, widths[1:], strict=False)
  )
  lift = size.groups * (3 + size.sa_dim) * size.width
  tokens, inner = size.groups + 1, size.heads * HEAD_DIM
  dense = tokens * size.width * (4 * inner + 2 * size.mlp_dim)
  attention = 2 * tokens**2 * inner
  blocks = size.depth * (dense + attention)
  return 2 * (point_net + lift + blocks + size.width * embed_dim)


def step_flops(size: PointBERTSize, embed_dim: int) -> int:
  """Of a training step for one cloud: as much again by inputs and weights."""
  return 3 * forward_flops(size, embed_dim)


def point_net_bytes(size: PointBERTSize, itemsize: int) -> int:
  """Bytes of the mini-PointNet's activations for one cloud, each once."""
  channels = POINT_FEATURES + sum(POINT_NET) + size.sa_dim
  return size.groups * size.group_size * channels * itemsize
