"""Buildings and other structures.  Doors look along +z."""

import numpy as np

from mrd_jax.procedural import geometry as g
from mrd_jax.procedural.families.registry import family


@family("buildings", "cottage, home", "chimney, porch, garage")
def house(rng: np.random.Generator) -> g.Parts:
  width, depth = rng.uniform(0.9, 1.2), rng.uniform(0.75, 1.0)
  wall, roof = rng.uniform(0.45, 0.6), rng.uniform(0.35, 0.55)
  half, front = width / 2, depth / 2
  yield g.box(width, wall, depth)
  gable = [(-half * 1.15, wall), (half * 1.15, wall), (0, wall + roof)]
  yield g.extrude(gable, depth * 1.1).accent()
  door = g.box(0.18, 0.32, 0.03).at(z=front).dark()
  window = g.box(0.16, 0.16, 0.03).at(half * 0.6, wall * 0.45, front)
  yield from [door, window.at(z=-front).dark().corners(0, front)]
  if rng.random() < 0.5:
    chimney = g.box(0.13, roof, 0.13).at(half * 0.5, wall + 0.15, -front * 0.4)
    yield chimney.named("chimney")
  if rng.random() < 0.3:
    cover = g.box(0.5, 0.04, 0.3).at(0, 0.42, front + 0.15)
    posts = g.box(0.05, 0.42, 0.05).at(0.22, 0, front + 0.27).pair()
    yield from (p.accent("porch") for p in (cover, posts))
  if rng.random() < 0.3:
    annex = g.box(0.45, wall * 0.75, depth * 0.8).at(half + 0.22)
    lid = g.box(0.5, 0.04, depth * 0.85).at(half + 0.22, wall * 0.75)
    yield from [annex.named("garage"), lid.accent("garage")]


@family("buildings", "mill", "balcony")
def windmill(rng: np.random.Generator) -> g.Parts:
  height, foot = rng.uniform(0.9, 1.2), rng.uniform(0.28, 0.36)
  top, reach = foot * rng.uniform(0.5, 0.65), rng.uniform(0.6, 0.75)
  yield g.cylinder(foot, height, top)
  yield g.cone(top * 1.2, rng.uniform(0.2, 0.32)).at(y=height).accent()
  yield g.box(0.14, 0.28, 0.05).at(z=foot * 0.95).dark()
  hub = (0, height * 0.95, top + 0.1)
  yield g.rod((0, hub[1], 0), (0, hub[1], hub[2] + 0.04), 0.05)
  turn = rng.uniform(0, 90)
  for angle in turn + np.arange(0, 360, 90):
    spar = g.box(0.035, reach, 0.03)
    sail = g.box(0.15, reach * 0.72, 0.015).at(0.08, reach * 0.27)
    yield from (p.turn("z", angle).at(*hub).accent() for p in (spar, sail))
  if rng.random() < 0.4:
    radius = foot + (top - foot) * 0.35
    deck = g.cylinder(radius + 0.16, 0.03).at(y=height * 0.35)
    rail = g.torus(radius + 0.15, 0.012).at(y=height * 0.35 + 0.1)
    yield from (p.accent("balcony") for p in (deck, rail))


@family(
  "buildings",
  "footbridge, suspension bridge",
  "towers and cables, arches, railings",
)
def bridge(rng: np.random.Generator) -> g.Parts:
  half, width = rng.uniform(0.9, 1.1), rng.uniform(0.3, 0.42)
  level, side = rng.uniform(0.3, 0.4), width / 2
  yield g.box(2 * half, 0.06, width).at(y=level)
  if rng.random() < 0.6:
    top, tower = level + rng.uniform(0.4, 0.55), half * 0.55
    posts = [g.box(0.07, top, 0.05).accent().corners(tower, side)]
    beams = [g.box(0.05, 0.06, width).at(tower, top - 0.1).accent().pair()]
    x = np.linspace(-half, half, 17)
    sag = np.where(
      np.abs(x) < tower,
      0.06 + 0.94 * (x / tower) ** 2,
      1 - (np.abs(x) - tower) / (half - tower),
    )
    y = level + 0.03 + (top - level - 0.03) * sag
    cable = g.tube(np.stack([x, y, 0 * x], axis=1), 0.014)
    ropes = [
      g.rod((a, level, 0), (a, b, 0), 0.008)
      for a, b in zip(x[1:-1], y[1:-1], strict=True)
    ]
    strung = [p.at(z=side).pair("z") for p in [cable, *ropes]]
    yield from (p.named("towers and cables") for p in posts + beams + strung)
  else:
    count = int(rng.integers(2, 4))
    span = 2 * half / count
    for i in range(count):
      angle = np.radians(np.linspace(180, 0, 13))
      arch = np.stack([np.cos(angle), np.sin(angle) * 0.9, 0 * angle], axis=1)
      arch *= (span * 0.45, level, 1)
      x = -half + span * (i + 0.5)
      yield g.tube(arch, 0.05).scale(z=width / 0.1).at(x).named("arches")
    for i in range(count + 1):
      pier = g.box(0.1, level, width).at(-half * 0.96 + 0.96 * span * i)
      yield pier.named("arches")
  if rng.random() < 0.5:
    rail = [g.box(2 * half, 0.025, 0.025).at(0, level + 0.16, side)]
    rail += [
      g.box(0.02, 0.16, 0.02).at(x, level, side)
      for x in np.linspace(-half, half, 9)
    ]
    yield from (p.pair("z").accent("railings") for p in rail)


@family("buildings", "light tower", "stripes, keeper hut")
def lighthouse(rng: np.random.Generator) -> g.Parts:
  height, foot = rng.uniform(1.2, 1.5), rng.uniform(0.2, 0.27)
  top = foot * rng.uniform(0.5, 0.7)
  yield g.cylinder(foot, height, top)
  yield g.cylinder(top * 1.7, 0.05).at(y=height).accent()
  yield g.torus(top * 1.65, 0.012).at(y=height + 0.12).accent()
  yield g.cylinder(top * 0.8, 0.2).at(y=height + 0.05).dark()
  cap = g.dome(top) if rng.random() < 0.5 else g.cone(top * 1.1, 0.16)
  yield cap.at(y=height + 0.25)
  yield g.cylinder(foot * 1.5, 0.08).accent()
  if rng.random() < 0.5:
    slope = (top - foot) / height
    for low in (0.2, 0.5, 0.8):
      y = low * height
      wide = (foot + slope * y) * 1.02
      narrow = (foot + slope * (y + 0.15 * height)) * 1.02
      band = g.revolve([(wide, y), (narrow, y + 0.15 * height)])
      yield band.accent("stripes")
  if rng.random() < 0.4:
    hut = g.box(0.4, 0.22, 0.3).at(foot + 0.25)
    roof = g.extrude([(-0.24, 0.22), (0.24, 0.22), (0, 0.38)], 0.34)
    roof = roof.at(foot + 0.25).accent()
    yield from (p.named("keeper hut") for p in (hut, roof))


@family("buildings", "fortress", "keep, pointed roofs")
def castle(rng: np.random.Generator) -> g.Parts:
  half, wall = rng.uniform(0.45, 0.55), rng.uniform(0.35, 0.45)
  radius, tower = rng.uniform(0.13, 0.17), wall + rng.uniform(0.12, 0.3)
  side, merlon = g.box(2 * half, wall, 0.08), g.box(0.1, 0.09, 0.08)
  yield side.at(z=half).around(4)
  for x in np.linspace(0.2 - half, half - 0.2, 4):
    yield merlon.at(x, wall, half).around(4)
  yield g.box(0.2, 0.28, 0.1).at(z=half).dark()
  yield g.cylinder(radius, tower).corners(half, half)
  if rng.random() < 0.5:
    roof = g.cone(radius * 1.25, 0.32).at(y=tower).accent()
    yield roof.corners(half, half).named("pointed roofs")
  else:
    tooth = g.box(0.07, 0.09, 0.07).at(radius, tower)
    teeth = [tooth.turn("y", angle) for angle in range(0, 360, 72)]
    yield from (p.corners(half, half) for p in teeth)
  if rng.random() < 0.45:
    high = wall + rng.uniform(0.2, 0.4)
    keep = g.box(half * 0.7, high, half * 0.7)
    turrets = g.box(0.1, 0.09, 0.1).at(y=high).corners(half * 0.3, half * 0.3)
    yield from (p.accent("keep") for p in (keep, turrets))
