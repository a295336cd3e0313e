"""Derives random keys by the name of what is drawn.

Whoever draws names the purpose, and numbers where there are many draws for it.
So no two draws share a key, not even those of two seeds, and one draw more
changes no other.  The purposes, from a run's seed on:

  init            the first parameters
  samples         a training batch, by step, then by position in the batch:
    points          which points, in which order
    augment         point_dropout (the share) and dropped (which), scale, shift,
                    tilt, rotate, colour_drop
    image           thumbnail (or a view), image (which)
    text            caption (whose), source (caption or other), text (which)
  loss            Eq. 12's random pairs, by step, then by the term's name
  regularisation  of fine-tuning, by step: dropout, drop_path
  test            the clouds that fine-tuning is tested on, by record
  votes           copies of them, by copy, then by record

Fine-tuning draws of a cloud its order, the choice of sampled points, scale and
shift.  What evaluation draws of a cloud follows from its size alone, not from a
run's seed (`encoder/input.py`).
"""

import zlib

import jax
from jax.typing import ArrayLike


def named(key: jax.Array, purpose: str, *numbers: ArrayLike) -> jax.Array:
  """Derives the key of a purpose.

  Args:
    key: () that of the whole.
    purpose: What is drawn.
    numbers: () integers, which of the draws for it.

  Returns:
    () the key, the same on every machine and in every process.
  """
  # Not hash(), which differs from process to process.
  for number in (zlib.crc32(purpose.encode()), *numbers):
    key = jax.random.fold_in(key, number)
  return key
