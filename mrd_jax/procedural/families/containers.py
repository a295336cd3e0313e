"""Builds containers; most are vessels turned about the y axis."""

import numpy as np

from mrd_jax.procedural import geometry as g
from mrd_jax.procedural.families.registry import family


def _handle(
  size: float, tall: float, thick: float, x: float, y: float
) -> g.Part:
  """Builds a C-shaped handle that bulges towards +x from (x, y)."""
  return g.tube(g.arc(size, -95, 95, tall=tall), thick).at(x, y).accent()


@family("containers", "coffee cup, cup", "saucer, stripe")
def mug(rng: np.random.Generator) -> g.Parts:
  radius, height = rng.uniform(0.36, 0.46), rng.uniform(0.85, 1.1)
  top = radius * rng.uniform(0.95, 1.15)
  yield g.vessel([(radius, 0), ((radius + top) / 2, height / 2), (top, height)])
  yield _handle(rng.uniform(0.2, 0.28), 1.3, 0.05, radius, height / 2)
  if rng.random() < 0.3:
    profile = [(0, -0.04), (0.4, -0.04), (0.8, 0.06), (0.4, 0), (0, 0)]
    yield g.revolve(profile).named("saucer")
  if rng.random() < 0.3:
    band = g.cylinder(max(radius, top) * 1.02, height * 0.15)
    yield band.at(y=height * 0.45).accent("stripe")


@family("containers", "wine bottle, flask", "cap, label")
def bottle(rng: np.random.Generator) -> g.Parts:
  radius, body = rng.uniform(0.15, 0.22), rng.uniform(0.5, 0.7)
  neck, shoulder = radius * rng.uniform(0.25, 0.4), rng.uniform(0.1, 0.22)
  height = body + shoulder + rng.uniform(0.15, 0.3)
  profile = [(0, 0), (radius, 0), (radius, body)]
  profile += [(radius * 0.8, body + shoulder * 0.5), (neck, body + shoulder)]
  yield g.revolve([*profile, (neck, height), (0, height)])
  if rng.random() < 0.6:
    yield g.cylinder(neck * 1.35, 0.07).at(y=height - 0.02).accent("cap")
  if rng.random() < 0.5:
    label = g.revolve([(radius * 1.02, 0), (radius * 1.02, body * 0.5)])
    yield label.at(y=body * 0.25).accent("label")


@family("containers", "urn", "handles, rim")
def vase(rng: np.random.Generator) -> g.Parts:
  height, belly = rng.uniform(0.9, 1.2), rng.uniform(0.28, 0.42)
  neck, lip = rng.uniform(0.1, 0.16), rng.uniform(0.18, 0.28)
  foot = rng.uniform(0.14, 0.22)
  at = np.array([0, 0.15, 0.35, 0.55, 0.75, 0.88, 1]) * height
  blend = [foot, 0.75 * belly, belly, 0.85 * belly, neck * 1.15, neck, lip]
  yield g.vessel(list(zip(blend, at, strict=True)))
  if rng.random() < 0.4:
    x, y = 0.6 * belly, 0.68 * height
    yield _handle(0.18, 0.9, 0.025, x, y).pair().named("handles")
  if rng.random() < 0.4:
    yield g.torus(lip, 0.03).at(y=height).accent("rim")


@family("containers", "dish", "spoon, base")
def bowl(rng: np.random.Generator) -> g.Parts:
  radius, deep = rng.uniform(0.45, 0.55), rng.uniform(0.7, 1.0)
  shell = g.dome(radius).scale(y=-deep)
  yield from [shell, shell.scale(0.94, 0.94, 0.94)]
  yield g.torus(radius * 0.97, radius * 0.03)
  if rng.random() < 0.5:
    base = g.cylinder(radius * 0.5, 0.1, radius * 0.35)
    yield base.at(y=-radius * deep - 0.05).accent("base")
  if rng.random() < 0.3:
    yield g.rod((0.1, -0.2, 0), (0.62, 0.35, 0.15), 0.025).accent("spoon")


@family("containers", "wine glass, chalice", "jewels")
def goblet(rng: np.random.Generator) -> g.Parts:
  stem, cup = rng.uniform(0.35, 0.55), rng.uniform(0.3, 0.5)
  radius, foot = rng.uniform(0.2, 0.28), rng.uniform(0.17, 0.24)
  base = [(0, 0), (foot, 0), (0.05, 0.06), (0.03, stem / 2)]
  base += [(0.06, stem * 0.6), (0.03, stem * 0.7), (0.03, stem)]
  lip = radius * rng.uniform(0.8, 1.0)
  wall = [(0.04, 0), (radius * 0.8, cup * 0.2), (radius, cup * 0.5), (lip, cup)]
  yield from [g.revolve(base).accent(), g.vessel(wall).at(y=stem)]
  if rng.random() < 0.35:
    jewel = g.sphere(0.045).at(radius, stem + cup * 0.5).accent()
    yield jewel.around(6).named("jewels")


@family("containers", "kettle", "top handle")
def teapot(rng: np.random.Generator) -> g.Parts:
  radius, flat = rng.uniform(0.38, 0.45), rng.uniform(0.75, 0.95)
  top = radius * flat
  foot = g.cylinder(radius * 0.6, 0.06).at(y=-top)
  yield from [g.sphere(radius).scale(y=flat), foot]
  lid = g.dome(radius * 0.5).scale(y=0.4).at(y=top * 0.88).accent()
  yield from [lid, g.sphere(0.06).at(y=top * 1.2).accent()]
  reach = radius * rng.uniform(1.75, 2.0)
  spout = [(radius * 0.8, -top * 0.35, 0), (radius * 1.3, -top * 0.1, 0)]
  spout += [(reach * 0.82, top * 0.45, 0), (reach, top * 0.8, 0)]
  yield g.tube(spout, (0.12, 0.09, 0.06, 0.05))
  if rng.random() < 0.4:
    loop = g.tube(g.arc(radius * 0.9, 10, 170, tall=1.2), 0.03).at(y=top * 0.5)
    yield loop.accent("top handle")
  else:
    yield _handle(0.26, 1.1, 0.04, radius * 0.9, 0).scale(x=-1)


@family("containers", "pail", "hoops")
def bucket(rng: np.random.Generator) -> g.Parts:
  top, height = rng.uniform(0.36, 0.44), rng.uniform(0.6, 0.8)
  foot = top * rng.uniform(0.6, 0.75)
  yield g.vessel([(foot, 0), ((foot + top) / 2, height / 2), (top, height)])
  bail = g.tube(g.arc(top, 0, 180), 0.015).turn("x", rng.uniform(-35, 35))
  yield bail.at(y=height - 0.03).accent()
  yield g.torus(top, 0.02).at(y=height).accent()
  if rng.random() < 0.5:
    for part in (0.2, 0.7):
      radius = foot + (top - foot) * part
      yield g.torus(radius, 0.02).at(y=height * part).accent("hoops")
