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
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import floors, peers, timing
from benchmarks.pytorch import random_encoder
from benchmarks.training import Training, make_training, random_batch
from mrd_jax.compare.torch_optimizer import make_optimizer as torch_optimizer
from mrd_jax.config.pretraining import SIZES, Config
from mrd_jax.convert import bridge
from mrd_jax.data.examples import Batch, train_examples
from mrd_jax.losses.mrd import init_dynamic_weights
from mrd_jax.metrics.table import render
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding

OURS = "mrd_jax"
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
  training: Training, params: Any, batch: Batch
) -> Callable[[], float]:
  """Each call makes a step, and returns its loss."""
  state = training.init()
  state.params["encoder"] = jax.tree.map(jnp.array, params)
  batch = jax.device_put(batch, training.encoder.batch_sharding)

  def run() -> float:
    nonlocal state
    state, metrics = training.step(state, batch)
    return float(metrics["loss"])

  return run


def torch_training(
  args: argparse.Namespace, config: Config, encoder: Callable, batch: Batch
) -> Callable[[], float]:
  """The same for PyTorch, on the clouds that our first step sees."""
  examples = jax.jit(
    lambda: train_examples(batch, config.augment, seed=0, step=jnp.int32(0))
  )()
  assert np.asarray(examples.has_text).all()
  points, image, text = (
    torch.tensor(np.asarray(x, np.float32), device=args.torch_device)
    for x in (examples.points, examples.image, examples.text)
  )
  model = encoder.model.to(args.torch_device).train()
  scalars = {
    "logit_scale": torch.tensor(math.log(config.logit_scale.init)),
    **{name: torch.zeros(2) for name in init_dynamic_weights(config.loss)},
  }
  scalars = {
    name: x.to(args.torch_device).requires_grad_()
    for name, x in scalars.items()
  }
  logit_scale = scalars.pop("logit_scale")
  optimizer = torch_optimizer(
    dict(model.named_parameters()) | {"logit_scale": logit_scale},
    scalars,
    lr=1e-4,
    dynamic_lr=1e-4,
  )

  def run() -> float:
    with torch.autocast(
      args.torch_device, torch.bfloat16, enabled=args.dtype == "bfloat16"
    ):
      point = encoder(points[..., :3].contiguous(), points)
    loss = peers.mrd_loss(point.float(), image, text, logit_scale, scalars)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


def our_inference(
  args: argparse.Namespace, variables: Any, points: np.ndarray
) -> Callable[[], np.ndarray]:
  encoder = PointBERT(SIZES[args.size], **our_options(args))
  embed = jax.jit(lambda *x: encoder.apply(*x, train=False))
  variables, clouds = jax.device_put((variables, points))
  counts = jnp.full(len(points), points.shape[1], jnp.int32)
  return lambda: np.asarray(embed(variables, clouds, counts))


def torch_inference(
  args: argparse.Namespace, encoder: Callable, points: np.ndarray
) -> Callable[[], np.ndarray]:
  encoder.model.to(args.torch_device).eval()
  clouds = torch.tensor(points, device=args.torch_device)

  def run() -> np.ndarray:
    with (
      torch.inference_mode(),
      torch.autocast(
        args.torch_device, torch.bfloat16, enabled=args.dtype == "bfloat16"
      ),
    ):
      point = encoder(clouds[..., :3].contiguous(), clouds)
    return point.float().cpu().numpy()

  return run


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark.

  Raises:
    AssertionError: if the first results differ.
  """
  torch.set_num_threads(args.threads)
  encoder = random_encoder(args.size, args.embed_dim, args.points)
  models = peers.copies(bridge.torch_model(encoder), args.forms)
  batch = random_batch(args.batch, args.points, args.embed_dim)
  forms: dict[str, Callable[[], Any]] = {}
  if args.work == "train":
    mesh = sharding.make_mesh(1, jax.devices()[:1])
    training = make_training(
      args.size, mesh, points=args.points, **our_options(args)
    )
    forms[OURS] = our_training(training, encoder.variables["params"], batch)
    for name, model in models.items():
      forms[name] = torch_training(args, training.config, model, batch)
  else:
    xyz = batch.xyz.astype(np.float32) / 32767
    points = np.concatenate([xyz, batch.rgb.astype(np.float32) / 255], -1)
    forms[OURS] = our_inference(args, encoder.variables, points)
    for name, model in models.items():
      forms[name] = torch_inference(args, model, points)
  first = {name: form() for name, form in forms.items()}
  scale = np.abs(first[OURS]).max()
  differences = {
    name: float(np.abs(first[name] - first[OURS]).max() / scale)
    for name in models
  }
  for name, difference in differences.items():
    limit = TOLERANCE[args.dtype] * (1 if args.work == "train" else 10)
    assert difference < limit, (name, difference)
  seconds = timing.interleaved(forms, args.rounds)
  flops = floors.step_flops if args.work == "train" else floors.forward_flops
  peak = timing.matrix_peak(args.dtype, args.peak_side, args.rounds)
  return vars(args) | {
    "machine": timing.machine(),
    "matrix_peak": peak,
    "floor": args.batch * flops(SIZES[args.size], args.embed_dim) / peak,
    "differences": differences,
    "seconds": seconds,
    "rows": [
      {
        "form": name,
        "ms": median * 1e3,
        "shapes_per_second": args.batch / median,
        "ours is faster": timing.ratio(seconds, name, OURS),
      }
      for name, median in timing.medians(seconds).items()
    ],
  }


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
        f"{row['ours is faster']:.2f}",
      ]
      for row in result["rows"]
    ],
  )
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
  parser.add_argument("--attention", default="xla")
  parser.add_argument("--fps_chunk", type=int, default=1)
  parser.add_argument("--query_chunk", type=int, default=8)
  parser.add_argument(
    "--forms", type=lambda text: text.split(","), default=["eager", "tuned"]
  )
  parser.add_argument("--torch-device", default="cpu")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--peak_side", type=int, default=2048)
  parser.add_argument("--json", action="store_true")
  return parser.parse_args(argv)


if __name__ == "__main__":
  args = parse()
  result = measure(args)
  print(json.dumps(result) if args.json else table(result))
