"""A small text tower of CLIP by OpenAI's names, with random weights."""

import functools

import clips
import numpy as np
from encoders import make_of_system
from safetensors.numpy import save_file

from mrd_jax.encoder.files import to_state

WIDTH, DEPTH, DIM, VOCABULARY, CONTEXT = 128, 2, 24, 539, 32


@functools.cache
def state():
  """A small tower with two heads by OpenAI's names, and what is beside it."""
  rng = np.random.default_rng(0)

  def draw(*shape, scale=1.0, mean=0.0):
    return np.float32(mean + scale * rng.standard_normal(shape))

  found = {
    "logit_scale": np.array(4.6, np.float32),
    "visual.proj": draw(8, DIM),
    "token_embedding.weight": draw(VOCABULARY, WIDTH),
    "positional_embedding": draw(CONTEXT, WIDTH, scale=0.3),
    "text_projection": draw(WIDTH, DIM),
  }
  norms = ["ln_final"]
  for i in range(DEPTH):
    block = f"transformer.resblocks.{i}"
    norms += [f"{block}.ln_1", f"{block}.ln_2"]
    for key, dash, rows, columns in (
      ("attn.in_proj", "_", 3 * WIDTH, WIDTH),
      ("attn.out_proj", ".", WIDTH, WIDTH),
      ("mlp.c_fc", ".", 200, WIDTH),
      ("mlp.c_proj", ".", WIDTH, 200),
    ):
      weight = draw(rows, columns, scale=columns**-0.5)
      found[f"{block}.{key}{dash}weight"] = weight
      found[f"{block}.{key}{dash}bias"] = draw(rows, scale=0.1)
  for key in norms:
    found[f"{key}.weight"] = draw(WIDTH, scale=0.1, mean=1.0)
    found[f"{key}.bias"] = draw(WIDTH, scale=0.1)
  return found


def write_encoder(folder, system, *, with_texts=True):
  """Writes an encoder's file by the authors' names, and a text tower in it."""
  encoder = make_of_system(system)
  tensors = dict(to_state(encoder.config, encoder.variables))
  if with_texts:
    texts = dict(state())
    texts.pop("visual.proj")
    width = encoder.config.dim
    projection = texts["text_projection"]
    projection = np.tile(projection, (1, 2))[:, :width]
    tensors |= texts | {"text_projection": np.ascontiguousarray(projection)}
  clips.make_tokenizer(folder, clips.TEXT)
  save_file(tensors, folder / f"{system}.safetensors")
  return folder / f"{system}.safetensors"
