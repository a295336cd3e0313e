"""Buildings and other structures.  Doors look along +z."""

import numpy as np

from mrd_jax.procedural.families.registry import chance, family
from mrd_jax.procedural.geometry import (
  Part,
  around,
  box,
  cone,
  corners,
  cylinder,
  dome,
  extrude,
  pair,
  revolve,
  rod,
  torus,
  tube,
)


@family("buildings", "cottage, home", "chimney, porch, garage")
def house(rng: np.random.Generator) -> list[Part]:
  width, depth = rng.uniform(0.9, 1.2), rng.uniform(0.75, 1.0)
  wall, roof = rng.uniform(0.45, 0.6), rng.uniform(0.35, 0.55)
  half, front = width / 2, depth / 2
  parts = [box(width, wall, depth)]
  gable = [(-half * 1.15, wall), (half * 1.15, wall), (0, wall + roof)]
  parts += [extrude(gable, depth * 1.1).paint("accent")]
  door = box(0.18, 0.32, 0.03).at(z=front).paint("dark")
  window = box(0.16, 0.16, 0.03).at(half * 0.6, wall * 0.45, front)
  parts += [door, *corners(window.at(z=-front).paint("dark"), 0, front)]
  if chance(rng, 0.5):
    chimney = box(0.13, roof, 0.13).at(half * 0.5, wall + 0.15, -front * 0.4)
    parts += [chimney.named("chimney")]
  if chance(rng, 0.3):
    cover = box(0.5, 0.04, 0.3).at(0, 0.42, front + 0.15)
    posts = pair(box(0.05, 0.42, 0.05).at(0.22, 0, front + 0.27))
    parts += [p.paint("accent", "porch") for p in [cover, *posts]]
  if chance(rng, 0.3):
    annex = box(0.45, wall * 0.75, depth * 0.8).at(half + 0.22)
    lid = box(0.5, 0.04, depth * 0.85).at(half + 0.22, wall * 0.75)
    parts += [annex.named("garage"), lid.paint("accent", "garage")]
  return parts


@family("buildings", "mill", "balcony")
def windmill(rng: np.random.Generator) -> list[Part]:
  height, foot = rng.uniform(0.9, 1.2), rng.uniform(0.28, 0.36)
  top, reach = foot * rng.uniform(0.5, 0.65), rng.uniform(0.6, 0.75)
  parts = [cylinder(foot, height, top)]
  parts += [
    cone(top * 1.2, rng.uniform(0.2, 0.32)).at(y=height).paint("accent")
  ]
  parts += [box(0.14, 0.28, 0.05).at(z=foot * 0.95).paint("dark")]
  hub = (0, height * 0.95, top + 0.1)
  parts += [rod((0, hub[1], 0), (0, hub[1], hub[2] + 0.04), 0.05)]
  turn = rng.uniform(0, 90)
  for angle in turn + np.arange(0, 360, 90):
    spar = box(0.035, reach, 0.03)
    sail = box(0.15, reach * 0.72, 0.015).at(0.08, reach * 0.27)
    parts += [p.turn("z", angle).at(*hub).paint("accent") for p in (spar, sail)]
  if chance(rng, 0.4):
    radius = foot + (top - foot) * 0.35
    deck = cylinder(radius + 0.16, 0.03).at(y=height * 0.35)
    rail = torus(radius + 0.15, 0.012).at(y=height * 0.35 + 0.1)
    parts += [p.paint("accent", "balcony") for p in (deck, rail)]
  return parts


@family(
  "buildings",
  "footbridge, suspension bridge",
  "towers and cables, arches, railings",
)
def bridge(rng: np.random.Generator) -> list[Part]:
  half, width = rng.uniform(0.9, 1.1), rng.uniform(0.3, 0.42)
  level, side = rng.uniform(0.3, 0.4), width / 2
  parts = [box(2 * half, 0.06, width).at(y=level)]
  if chance(rng, 0.6):
    top, tower = level + rng.uniform(0.4, 0.55), half * 0.55
    posts = corners(box(0.07, top, 0.05).paint("accent"), tower, side)
    beams = pair(box(0.05, 0.06, width).at(tower, top - 0.1).paint("accent"))
    x = np.linspace(-half, half, 17)
    sag = np.where(
      np.abs(x) < tower,
      0.06 + 0.94 * (x / tower) ** 2,
      1 - (np.abs(x) - tower) / (half - tower),
    )
    y = level + 0.03 + (top - level - 0.03) * sag
    cable = tube(np.stack([x, y, 0 * x], axis=1), 0.014)
    ropes = [
      rod((a, level, 0), (a, b, 0), 0.008)
      for a, b in zip(x[1:-1], y[1:-1], strict=True)
    ]
    strung = [q for p in [cable, *ropes] for q in pair(p.at(z=side), "z")]
    parts += [p.named("towers and cables") for p in posts + beams + strung]
  else:
    count = int(rng.integers(2, 4))
    span = 2 * half / count
    for i in range(count):
      angle = np.radians(np.linspace(180, 0, 13))
      arch = np.stack([np.cos(angle), np.sin(angle) * 0.9, 0 * angle], axis=1)
      arch *= (span * 0.45, level, 1)
      x = -half + span * (i + 0.5)
      ring = tube(arch, 0.05).scale(z=width / 0.1).at(x)
      parts += [ring.named("arches")]
    for i in range(count + 1):
      pier = box(0.1, level, width).at(-half * 0.96 + 0.96 * span * i)
      parts += [pier.named("arches")]
  if chance(rng, 0.5):
    rail = [box(2 * half, 0.025, 0.025).at(0, level + 0.16, side)]
    rail += [
      box(0.02, 0.16, 0.02).at(x, level, side)
      for x in np.linspace(-half, half, 9)
    ]
    rails = [q for p in rail for q in pair(p, "z")]
    parts += [p.paint("accent", "railings") for p in rails]
  return parts


@family("buildings", "light tower", "stripes, keeper hut")
def lighthouse(rng: np.random.Generator) -> list[Part]:
  height, foot = rng.uniform(1.2, 1.5), rng.uniform(0.2, 0.27)
  top = foot * rng.uniform(0.5, 0.7)
  parts = [cylinder(foot, height, top)]
  parts += [cylinder(top * 1.7, 0.05).at(y=height).paint("accent")]
  rail = torus(top * 1.65, 0.012).at(y=height + 0.12)
  parts += [rail.paint("accent")]
  parts += [cylinder(top * 0.8, 0.2).at(y=height + 0.05).paint("dark")]
  cap = dome(top) if chance(rng, 0.5) else cone(top * 1.1, 0.16)
  parts += [cap.at(y=height + 0.25)]
  parts += [cylinder(foot * 1.5, 0.08).paint("accent")]
  if chance(rng, 0.5):
    slope = (top - foot) / height
    for low in (0.2, 0.5, 0.8):
      y = low * height
      wide = (foot + slope * y) * 1.02
      narrow = (foot + slope * (y + 0.15 * height)) * 1.02
      band = revolve([(wide, y), (narrow, y + 0.15 * height)])
      parts += [band.paint("accent", "stripes")]
  if chance(rng, 0.4):
    hut = box(0.4, 0.22, 0.3).at(foot + 0.25)
    roof = extrude([(-0.24, 0.22), (0.24, 0.22), (0, 0.38)], 0.34)
    roof = roof.at(foot + 0.25).paint("accent")
    parts += [p.named("keeper hut") for p in (hut, roof)]
  return parts


@family("buildings", "fortress", "keep, pointed roofs")
def castle(rng: np.random.Generator) -> list[Part]:
  half, wall = rng.uniform(0.45, 0.55), rng.uniform(0.35, 0.45)
  radius, tower = rng.uniform(0.13, 0.17), wall + rng.uniform(0.12, 0.3)
  side = box(2 * half, wall, 0.08).at(z=half)
  merlon = box(0.1, 0.09, 0.08)
  side = [
    side,
    *(merlon.at(x, wall, half) for x in np.linspace(0.2 - half, half - 0.2, 4)),
  ]
  parts = [q for p in side for q in around(p, 4)]
  parts += [box(0.2, 0.28, 0.1).at(z=half).paint("dark")]
  parts += corners(cylinder(radius, tower), half, half)
  if chance(rng, 0.5):
    roof = cone(radius * 1.25, 0.32).at(y=tower).paint("accent")
    parts += [p.named("pointed roofs") for p in corners(roof, half, half)]
  else:
    teeth = [p.at(y=tower) for p in around(box(0.07, 0.09, 0.07).at(radius), 5)]
    parts += [q for p in teeth for q in corners(p, half, half)]
  if chance(rng, 0.45):
    high = wall + rng.uniform(0.2, 0.4)
    keep = box(half * 0.7, high, half * 0.7).paint("accent", "keep")
    parts += [keep]
    parts += [
      p.at(y=high).paint("accent", "keep")
      for p in corners(box(0.1, 0.09, 0.1), half * 0.3, half * 0.3)
    ]
  return parts
