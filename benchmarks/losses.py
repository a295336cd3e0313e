"""What the forms of the losses cost: memory, time, bytes between devices.

  python -m benchmarks.losses --batch 4096,16384,65536 --timed 1024,4096

Value and gradient (by embeddings, logit scale and dynamic weights) of the
losses with random embeddings.  For every --batch and --devices, each form is
compiled, not run: XLA's own count of temporary memory on one device, and, on
several, the bytes of the collectives in the compiled program beside those that
the forms' description leads to expect.  For every --timed, on one device,
medians of interleaved rounds and of the rounds' ratios.  Prints a line of JSON,
then the tables.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks import collectives, timing
from mrd_jax.config.pretraining import LossConfig, Representation
from mrd_jax.losses import mrd
from mrd_jax.metrics.table import render
from mrd_jax.parallel import sharding

FORMS = ("dense", "gather")


def gradient(config: LossConfig, mesh: Mesh | None):
  """The jitted value and gradient of the losses, rows over the mesh."""

  def loss(student, teachers, key):
    point, logit_scale, dynamic_weights = student
    return mrd.mrd_loss(
      config,
      mrd.Embeddings(point, *teachers),
      logit_scale,
      dynamic_weights,
      key,
      mesh=mesh,
    )[0]

  function = jax.value_and_grad(loss)
  if mesh is None:
    return jax.jit(function)
  rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
  student = (rows, whole, whole)
  return jax.jit(
    function,
    in_shardings=(student, rows, whole),
    out_shardings=(whole, student),
  )


def random_inputs(config: LossConfig, batch: int, dim: int):
  """A student near its teachers, nine tenths of them with a text."""
  rng = np.random.default_rng(0)
  image = rng.normal(size=(batch, dim)).astype(np.float32)
  point, text = (
    image + rng.normal(size=(batch, dim)).astype(np.float32) for _ in range(2)
  )
  student = (
    point,
    np.float32(np.log(14.28)),
    mrd.init_dynamic_weights(config),
  )
  teachers = (image, text, rng.random(batch) < 0.9)
  return jax.device_put((student, teachers, jax.random.key(0)))


def compiled(config: LossConfig, batch: int, dim: int, devices: int):
  """The compiled gradient of a form; nothing of its size is allocated."""
  mesh = None
  if devices > 1:
    mesh = Mesh(
      np.array(jax.devices()[:devices]).reshape(devices, 1),
      sharding.BATCH,
      axis_types=(AxisType.Auto, AxisType.Auto),
    )
  inputs = jax.eval_shape(lambda: random_shapes(config, batch, dim))
  return gradient(config, mesh).lower(*inputs).compile()


def random_shapes(config: LossConfig, batch: int, dim: int):
  """Zeros of the shapes of `random_inputs`."""
  x_BD = jnp.zeros((batch, dim))
  student = (x_BD, jnp.float32(0), mrd.init_dynamic_weights(config))
  return student, (x_BD, x_BD, jnp.zeros(batch, bool)), jax.random.key(0)


def largest_array(text: str) -> int:
  """Elements of the largest array in a compiled program."""
  shapes = re.findall(r"\b(?:f32|s32|pred)\[([\d,]+)\]", text)
  return max(int(np.prod([int(n) for n in dims.split(",")])) for dims in shapes)


def expected_bytes(form: str, batch: int, dim: int, devices: int):
  """What the features alone should cost; the rest is O(B).

  P, I, T once; the gradient of P back.
  """
  features = 4 * batch * dim
  back = "all-reduce" if form == "dense" else "reduce-scatter"
  return {"all-gather": 3 * features, back: features}


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark; the result is what is printed."""
  base = LossConfig(
    representation=args.representation,
    cross_form=args.cross_form,
    stripe=args.stripe,
  )
  result: dict[str, Any] = vars(args) | {
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "programs": [],
    "times": [],
  }
  for batch in args.batch:
    for devices in args.devices:
      for form in args.forms:
        config = dataclasses.replace(base, form=form)
        program = compiled(config, batch, args.dim, devices)
        text = program.as_text()
        temporaries = program.memory_analysis().temp_size_in_bytes
        row = {
          "batch": batch,
          "devices": devices,
          "form": form,
          "temporaries": temporaries,
          "largest": largest_array(text),
        }
        if devices > 1:
          row["collectives"] = {
            kind: moved.bytes for kind, moved in collectives.count(text).items()
          }
          row["expected"] = expected_bytes(form, batch, args.dim, devices)
        result["programs"].append(row)
        print(row, file=sys.stderr, flush=True)
  for batch in args.timed:
    inputs = random_inputs(base, batch, args.dim)
    forms = {
      form: gradient(dataclasses.replace(base, form=form), None)
      for form in args.forms
    }
    seconds = timing.interleaved(
      {
        form: lambda f=function, x=inputs: jax.block_until_ready(f(*x))
        for form, function in forms.items()
      },
      args.rounds,
    )
    result["times"].append({"batch": batch, "seconds": seconds})
  return result


def tables(result: dict[str, Any]) -> str:
  """All tables, in Markdown."""
  rows, moved = [], []
  for program in result["programs"]:
    name = [f"{program['batch']:,}", f"{program['devices']}", program["form"]]
    rows.append([*name, f"{program['temporaries'] / 2**30:.3f}"])
    if "collectives" in program:
      moved.append(
        name
        + [
          f"{program['collectives'][kind] / 2**20:,.2f}"
          + (
            f" ({program['expected'][kind] / 2**20:,.2f})"
            if kind in program["expected"]
            else ""
          )
          for kind in collectives.NAMES
        ]
      )
  head = ["batch", "devices", "form"]
  text = [render([*head, "temporaries, GiB a device"], rows), ""]
  if moved:
    header = [*head, *(f"{kind}, MiB" for kind in collectives.NAMES)]
    text += [render(header, moved), "", "(in brackets: expected)", ""]
  if result["times"]:
    first, *others = list(result["times"][0]["seconds"])
    times = []
    for row in result["times"]:
      medians = timing.medians(row["seconds"])
      times.append(
        [f"{row['batch']:,}"]
        + [f"{x * 1e3:.1f}" for x in medians.values()]
        + [f"{timing.ratio(row['seconds'], x, first):.2f}" for x in others]
      )
    header = ["batch", *(f"{form}, ms" for form in (first, *others))]
    header += [f"{form} / {first}" for form in others]
    text += [render(header, times), ""]
  return "\n".join(text)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]

  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.losses",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--batch", type=numbers, default=[4096, 16384, 65536])
  parser.add_argument("--devices", type=numbers, default=[1, 8])
  parser.add_argument("--timed", type=numbers, default=[1024, 4096])
  parser.add_argument("--dim", type=int, default=1280)
  parser.add_argument(
    "--forms", type=lambda text: text.split(","), default=list(FORMS)
  )
  parser.add_argument(
    "--representation",
    choices=Representation.__args__,
    default="similarity",
  )
  parser.add_argument("--cross_form", default="full")
  parser.add_argument("--stripe", type=int, default=512)
  parser.add_argument("--rounds", type=int, default=5)
  return parser.parse_args(argv)


if __name__ == "__main__":
  args = parse()
  jax.config.update("jax_num_cpu_devices", max(args.devices))
  result = measure(args)
  print(json.dumps(result))
  print(tables(result))
