"""Times CLIP's two towers, random weights, and says how near the peak.

  python -m benchmarks.teacher --size bigg --dtype bfloat16 --batch 128

Batches are on the devices' host already, as uint8: what is timed is the copy,
the normalisation and the tower, as `ClipTeacher` runs them, a batch ahead.
The peak is that of square matrix products of the same type, on one device, in
the same run.  Prints a line of JSON.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np

from benchmarks import timing
from mrd_jax.models.clip import CLIPSize, TowerSize
from mrd_jax.teachers.towers import Towers


def _vit(
  embed_dim: int, patch: int, activation: str, vision: tuple, text: tuple
) -> CLIPSize:
  image_tower, text_tower = (
    TowerSize(*sizes, activation=activation, epsilon=1e-5)
    for sizes in (vision, text)
  )
  return CLIPSize(
    embed_dim, image_tower, 224, patch, text_tower, 49408, 77, None
  )


# The published sizes; weights bring their own `config.json`.
_B, _B_TEXT = (768, 12, 12, 3072), (512, 12, 8, 2048)
_L, _L_TEXT = (1024, 24, 16, 4096), (768, 12, 12, 3072)
_G, _G_TEXT = (1664, 48, 16, 8192), (1280, 32, 20, 5120)
SIZES = {
  "b32": _vit(512, 32, "quick_gelu", _B, _B_TEXT),
  "b16": _vit(512, 16, "quick_gelu", _B, _B_TEXT),
  "l14": _vit(768, 14, "quick_gelu", _L, _L_TEXT),
  "bigg": _vit(1280, 14, "gelu", _G, _G_TEXT),
}


def tower_flops(tower: TowerSize, tokens: int) -> float:
  """Of the matrix products of the blocks, for one image or text."""
  width = tower.width
  dense = 2 * tokens * (4 * width**2 + 2 * width * tower.mlp_dim)
  attention = 2 * 2 * tokens**2 * width
  return tower.depth * float(dense + attention)


def image_flops(size: CLIPSize) -> float:
  patches = (size.image_size // size.patch_size) ** 2
  embedding = 2 * patches * 3 * size.patch_size**2 * size.vision.width
  return embedding + tower_flops(size.vision, patches + 1)


def measure(args: argparse.Namespace) -> dict[str, object]:
  """Runs the benchmark; the result is what is printed."""
  size = SIZES[args.size]
  towers = Towers(
    size,
    args.dtype,
    batch_size=args.batch,
    scale=1 / 255,
    mean=np.full(3, 0.5, np.float32),
    std=np.full(3, 0.25, np.float32),
    attention=args.attention,
  )
  rng = np.random.default_rng(0)
  shape = (towers.batch, 3, size.image_size, size.image_size)
  pixels = rng.integers(0, 256, shape, np.uint8)
  ids = rng.integers(
    0, size.vocabulary, (towers.batch, args.text_length), np.int32
  )
  mask = np.ones_like(ids)
  one = np.ones((1, 1), np.int32)
  params = jax.jit(towers.model.init)(
    jax.random.key(0), np.zeros((1, *shape[1:]), np.float32), one, one
  )["params"]
  towers.params = jax.tree.map(towers.put, params)

  def rate(run) -> float:
    """Rows per second; the next batch is sent while one is computed."""
    jax.block_until_ready(run())  # compiles
    times = []
    for _ in range(args.rounds):
      start = time.perf_counter()
      batches = [run() for _ in range(args.batches)]
      jax.block_until_ready(batches)
      times.append((time.perf_counter() - start) / args.batches)
    return towers.batch / statistics.median(times)

  images = rate(lambda: towers.image(pixels))
  texts = rate(lambda: towers.text(ids, mask))
  peak = (
    timing.matrix_peak(args.dtype, args.peak_side, args.rounds) * towers.devices
  )
  features = np.asarray(towers.image(pixels))
  image, text = image_flops(size), tower_flops(size.text, args.text_length)
  return vars(args) | {
    "device": f"{towers.devices} x {jax.devices()[0].device_kind}",
    "jax": jax.__version__,
    "parameters": sum(x.size for x in jax.tree.leaves(towers.params)),
    "global_batch": towers.batch,
    "gflop_per_image": round(image / 1e9, 1),
    "gflop_per_text": round(text / 1e9, 1),
    "images_per_second": round(images, 1),
    "texts_per_second": round(texts, 1),
    "matrix_peak_tflops": round(peak / 1e12, 3),
    "image_share_of_peak": round(images * image / peak, 3),
    "text_share_of_peak": round(texts * text / peak, 3),
    "compile_s": round(towers.throughput.compile_seconds, 1),
    "mean_norm": float(np.linalg.norm(features, axis=1).mean()),
  }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=SIZES, default="b32")
  parser.add_argument("--batch", type=int, default=8, help="on each device")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--attention", default="xla")
  parser.add_argument("--text_length", type=int, default=77)
  parser.add_argument("--batches", type=int, default=4, help="of a round")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--peak_side", type=int, default=2048)
  return parser.parse_args(argv)


if __name__ == "__main__":
  print(json.dumps(measure(parse())))
