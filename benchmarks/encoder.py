"""Times the encoder beside PyTorch: same weights, same clouds, same device.

  python -m benchmarks.encoder --size m --work train
  python -m benchmarks.encoder --size t --work infer --batch 1

`train` is the whole step (forward, backward, the paper's losses, AdamW; ours
with its augmentations on top), `infer` the embedding of a batch.  PyTorch's
forms are described in `benchmarks/peers.py`.  All take turns; the ratio is the
median over rounds.  The floor is the matrix products (`floors.py`) at the peak
of square ones in the same run.  Prints a table, and JSON with --json; stops if
the losses or embeddings differ.  --torch-device cuda measures PyTorch on a GPU;
JAX takes the device it finds.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import floors, timing
from benchmarks.pytorch import random_encoder
from benchmarks.training import make_training, random_batch
from mrd_jax.config.pretraining import SIZES
from mrd_jax.data.examples import Batch
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.metrics.table import render
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding

OURS = "mrd_jax"
FORMS = (OURS, "eager", "tuned", "compile")
TOLERANCE = {"float32": 1e-6, "bfloat16": 3e-2}  # relative, of the losses


def our_options(args: argparse.Namespace) -> dict[str, Any]:
  return {
    "embed_dim": args.embed_dim,
    "dtype": jnp.dtype(args.dtype),
    "remat": args.remat,
    "attention": args.attention,
    "fps_chunk": args.fps_chunk,
    "query_chunk": args.query_chunk,
  }


def our_training(
  args: argparse.Namespace, encoder: Encoder, batch: Batch
) -> Callable[[], jax.Array]:
  """Compiles the step; each call makes one, and returns its loss."""
  mesh = sharding.make_mesh(1, jax.devices()[:1])
  training = make_training(
    args.size, mesh, points=args.points, **our_options(args)
  )
  batch = jax.device_put(batch, training.encoder.batch_sharding)
  step = training.step.lower(training.abstract_state, batch).compile()
  state = training.init()
  state.params["encoder"] = jax.tree.map(jnp.array, encoder.variables["params"])

  def run() -> jax.Array:
    nonlocal state
    state, metrics = step(state, batch)
    return metrics["loss"]

  return run


def our_inference(
  args: argparse.Namespace, encoder: Encoder, batch: Batch
) -> Callable[[], jax.Array]:
  """Compiles the embedding of a batch; each call makes it."""
  model = PointBERT(SIZES[args.size], **our_options(args))
  counts = jnp.full(args.batch, args.points, jnp.int32)
  inputs = jax.device_put((encoder.variables, clouds_of(batch), counts))
  embed = jax.jit(lambda *x: model.apply(*x, train=False))
  compiled = embed.lower(*inputs).compile()
  return lambda: compiled(*inputs)


def clouds_of(batch: Batch) -> np.ndarray:
  """(B, N, 6) float32: what the records hold, as they are."""
  xyz = batch.xyz.astype(np.float32) / 32767
  return np.concatenate([xyz, batch.rgb.astype(np.float32) / 255], -1)


def fetch(result: Any) -> np.ndarray:
  """Waits for a result, of JAX or of PyTorch, and brings it to the host."""
  if not isinstance(result, jax.Array):
    result = result.detach().float().cpu()
  return np.asarray(result)


def check_differences(
  args: argparse.Namespace, first: dict[str, np.ndarray]
) -> dict[str, float]:
  """Compares each form's first result with ours, which may be in a file.

  Returns:
    The differences, relative to our largest value; empty without ours.

  Raises:
    AssertionError: if one is too large.
  """
  ours = first.get(OURS)
  if args.reference and ours is not None:
    np.save(args.reference, ours)
  elif args.reference and Path(args.reference).exists():
    ours = np.load(args.reference)
  if ours is None:
    return {}
  differences = {
    name: float(np.abs(found - ours).max() / np.abs(ours).max())
    for name, found in first.items()
    if name != OURS
  }
  limit = TOLERANCE[args.dtype] * (1 if args.work == "train" else 10)
  for name, difference in differences.items():
    assert difference < limit, f"{name} differs by {difference:.1e} from ours"
  return differences


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark.

  Raises:
    AssertionError: if the first results differ.
  """
  encoder = random_encoder(args.size, args.embed_dim, args.points)
  batch = random_batch(args.batch, args.points, args.embed_dim)
  forms: dict[str, Callable[[], Any]] = {}
  if OURS in args.forms:
    ours = our_training if args.work == "train" else our_inference
    forms[OURS] = ours(args, encoder, batch)
  if args.compile_only:
    return vars(args)
  if set(args.forms) != {OURS}:
    # Not above: beside JAX on a GPU, PyTorch's CUDA libraries stay out.
    from benchmarks import peers

    forms |= peers.forms(args, encoder, batch, clouds_of(batch))
  differences = check_differences(
    args, {name: fetch(form()) for name, form in forms.items()}
  )
  seconds = timing.seconds(
    forms, rounds=args.rounds, calls=args.calls, wait=fetch
  )
  result = vars(args) | {
    "machine": timing.machine(),
    "differences": differences,
    "seconds": seconds,
    "rows": [
      {
        "form": name,
        "ms": median * 1e3,
        "shapes_per_second": args.batch / median,
      }
      | (
        {"ours is faster": timing.ratio(seconds, name, OURS)}
        if OURS in forms
        else {}
      )
      for name, median in timing.medians(seconds).items()
    ],
  }
  if OURS in forms:  # else JAX has another device
    flops = floors.step_flops if args.work == "train" else floors.forward_flops
    peak = timing.matrix_peak(args.dtype, args.peak_side, args.rounds)
    floor = args.batch * flops(SIZES[args.size], args.embed_dim) / peak
    result |= {"matrix_peak": peak, "floor": floor}
  return result


def table(result: dict[str, Any]) -> str:
  """The result in Markdown."""
  rows = render(
    ["size", "work", "batch", "form", "ms", "shapes/s", "ours is faster by"],
    [
      [
        result["size"].upper(),
        result["work"],
        str(result["batch"]),
        row["form"],
        f"{row['ms']:,.1f}",
        f"{row['shapes_per_second']:,.1f}",
        f"{row.get('ours is faster', 0) or '':.4}",
      ]
      for row in result["rows"]
    ],
  )
  if "floor" not in result:
    return rows
  return (
    f"{rows}\n\nFloor: {result['floor'] * 1e3:,.1f} ms, the matrix products at "
    f"{result['matrix_peak'] / 1e12:.3f} TFLOP/s."
  )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.encoder",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--size", choices=SIZES, default="t")
  parser.add_argument("--work", choices=("train", "infer"), default="train")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
  parser.add_argument("--remat", default="none")
  parser.add_argument("--attention", default="auto")
  parser.add_argument("--fps_chunk", type=int, default=1)
  parser.add_argument("--query_chunk", type=int, default=8)
  parser.add_argument(
    "--forms",
    type=lambda text: text.split(","),
    default=[OURS, "eager", "tuned"],
    help=f"some of {','.join(FORMS)}",
  )
  parser.add_argument(
    "--reference", help="a file for our first result: written, or compared with"
  )
  parser.add_argument("--torch-device", default="cpu")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  timing.add_flags(parser)
  parser.add_argument("--peak_side", type=int, default=2048)
  parser.add_argument("--json", action="store_true")
  args = parser.parse_args(argv)
  if unknown := set(args.forms) - set(FORMS):
    parser.error(f"--forms: {', '.join(unknown)} is none of {', '.join(FORMS)}")
  return args


if __name__ == "__main__":
  args = parse()
  result = measure(args)
  print(json.dumps(result) if args.json else table(result))
