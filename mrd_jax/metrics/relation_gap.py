"""Compares the student's similarities with the teachers' (paper, Table 6)."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.metrics.embeddings import check_finite, map_rows


def relation_gap(
  point_ND: np.ndarray,
  image_ND: np.ndarray,
  text_ND: np.ndarray,
  has_image_N: np.ndarray,
  has_text_N: np.ndarray,
) -> dict[str, float]:
  """Computes the mean absolute error between cosine matrices of all pairs.

  The matrices are raw: entry ij of P2T is p_i . t_j, without temperature or
  softmax, and the diagonal counts.

  Args:
    point_ND: (N, D) unit embeddings of the shapes.
    image_ND: (N, D) unit features of their images.
    text_ND: (N, D) unit features of their texts.
    has_image_N: (N,) bool.
    has_text_N: (N,) bool.

  Returns:
    In [0, 2]: "gap_p2p_i2i", over the shapes with an image (as row and as
    column), "gap_p2p_t2t", over those with a text, "gap_p2t_i2t" and
    "gap_p2i_t2i", over those with both.  A term that no shape is left for is absent.

  Raises:
    BadInput: if no term is left, or an embedding that takes part is not
      finite.
  """
  chex.assert_equal_shape([point_ND, image_ND, text_ND])
  chex.assert_shape([has_image_N, has_text_N], (len(point_ND),))
  point, image, text = (
    x_ND.astype(np.float32) for x_ND in (point_ND, image_ND, text_ND)
  )
  both_N = has_image_N & has_text_N
  result = {}
  for name, rows, columns, has_N in (
    ("p2p_i2i", (point, image), (point, image), has_image_N),
    ("p2p_t2t", (point, text), (point, text), has_text_N),
    ("p2t_i2t", (point, image), (text, text), both_N),
    ("p2i_t2i", (point, text), (image, image), both_N),
  ):
    if has_N.any():
      for x_ND in rows + columns:
        check_finite(f"{name}: an embedding of shape", x_ND, has_N)
      with jax.enable_x64(True):  # for the sums; the inputs stay float32
        sums_N = map_rows(
          _row_sums,
          tuple(x_ND[has_N] for x_ND in rows),
          tuple(x_ND[has_N] for x_ND in columns),
        )
      result[f"gap_{name}"] = math.fsum(sums_N) / len(sums_N) ** 2
  if not result:
    raise BadInput(
      "no shape has an image or a text to compare the embeddings with"
    )
  return result


def _row_sums(rows, columns) -> jax.Array:
  """Sums |a_i . b_j - c_i . d_j| over j for the rows i of a tile: (Q,)."""
  student_QN, teacher_QN = (
    jnp.matmul(row_QD, column_ND.T, precision=jax.lax.Precision.HIGHEST)
    for row_QD, column_ND in zip(rows, columns, strict=True)
  )
  return jnp.abs(student_QN - teacher_QN).sum(axis=1, dtype=jnp.float64)
