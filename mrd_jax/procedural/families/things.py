"""Accessories and playthings."""

import numpy as np

from mrd_jax.procedural.families.registry import chance, family
from mrd_jax.procedural.geometry import (
  Part,
  arc,
  around,
  box,
  cone,
  cylinder,
  dome,
  extrude,
  pair,
  revolve,
  rod,
  sphere,
  torus,
  tube,
)


@family("accessories", "headset", "microphone", plural=True)
def headphones(rng: np.random.Generator) -> list[Part]:
  radius, cup = rng.uniform(0.45, 0.52), rng.uniform(0.17, 0.23)
  tall = rng.uniform(1.05, 1.25)
  parts = [tube(arc(radius, 0, 180, tall=tall), 0.045).scale(z=1.6)]
  shell = cylinder(cup, 0.1).turn("z", -90).at(radius - 0.05, -cup * 0.6)
  cushion = torus(cup * 0.8, 0.06).turn("z", 90)
  cushion = cushion.at(radius - 0.07, -cup * 0.6).paint("dark")
  parts += pair(shell.paint("accent")) + pair(cushion)
  if chance(rng, 0.4):
    boom = [(radius, -cup, 0.05), (radius - 0.08, -cup - 0.22, 0.3)]
    boom += [(radius - 0.3, -cup - 0.26, 0.42)]
    mic = [tube(boom, 0.02), sphere(0.05).at(*boom[-1])]
    parts += [p.paint("dark", "microphone") for p in mic]
  return parts


@family(
  "accessories",
  "spectacles, eyeglasses",
  "dark lenses, square frames",
  plural=True,
)
def glasses(rng: np.random.Generator) -> list[Part]:
  size, gap = rng.uniform(0.21, 0.26), rng.uniform(0.05, 0.08)
  x, tall = size + gap, rng.uniform(0.75, 1.0)
  if chance(rng, 0.5):
    a, b = size, size * tall
    loop = [(-a, -b, 0), (a, -b, 0), (a, b, 0), (-a, b, 0)]
    bars = [rod(loop[i - 1], loop[i], 0.025) for i in range(4)]
    rim = [p.named("square frames") for p in bars]
  else:
    rim = [torus(size, 0.025).turn("x", 90).scale(y=tall)]
  parts = [q for p in rim for q in pair(p.at(x))]
  if chance(rng, 0.45):
    lens = cylinder(size, 0.01).turn("x", 90).scale(y=tall).at(x)
    parts += [p.paint("dark", "dark lenses") for p in pair(lens)]
  parts += [tube([(-gap, 0.05, 0), (0, 0.09, 0), (gap, 0.05, 0)], 0.025)]
  edge, long = x + size, rng.uniform(0.75, 0.95)
  temple = [(edge, 0.03, 0), (edge, 0.03, -long * 0.8), (edge, -0.14, -long)]
  return parts + pair(tube(temple, 0.025).paint("accent"))


@family("accessories", "sun hat, fedora", "feather, pointed crown")
def hat(rng: np.random.Generator) -> list[Part]:
  crown, brim = rng.uniform(0.26, 0.32), rng.uniform(0.5, 0.62)
  height, curl = rng.uniform(0.28, 0.45), rng.uniform(0, 0.12)
  edge = [(crown * 0.95, 0), (brim * 0.8, 0.01), (brim, curl)]
  parts = [revolve(edge), revolve([(r, y + 0.02) for r, y in edge])]
  if chance(rng, 0.3):
    top = [(crown, 0), (crown * 0.5, height), (0, height * 2)]
    parts += [revolve(top).named("pointed crown")]
  else:
    top = [(crown, 0), (crown * 0.9, height * 0.85), (crown * 0.7, height)]
    parts += [revolve([*top, (0, height * 0.97)])]
  band = cylinder(crown * 1.04, height * 0.25, crown * 1.0).at(y=0.02)
  parts += [band.paint("accent")]
  if chance(rng, 0.35):
    line = [(crown, 0.05, 0), (crown + 0.05, 0.3, 0), (crown - 0.1, 0.55, 0)]
    feather = tube(line, (0.015, 0.07, 0.01)).scale(z=0.4)
    parts += [feather.paint("accent", "feather")]
  return parts


@family("accessories", "parasol", "hooked handle, ball handle")
def umbrella(rng: np.random.Generator) -> list[Part]:
  radius, height = rng.uniform(0.5, 0.65), rng.uniform(0.9, 1.1)
  deep = rng.uniform(0.5, 0.75)
  canopy = dome(radius).scale(y=deep).at(y=height - radius * deep)
  parts = [canopy, canopy.scale(0.97, 0.995, 0.97)]
  parts += [cylinder(0.022, height + 0.1).paint("accent")]
  if chance(rng, 0.65):
    hook = tube(arc(0.09, 180, 360), 0.028).at(0.09)
    parts += [hook.paint("accent", "hooked handle")]
  else:
    parts += [sphere(0.06).paint("accent", "ball handle")]
  rib = rod(
    (0, height * 0.62, 0), (radius * 0.8, height - radius * deep * 0.4, 0), 0.01
  )
  return parts + around(rib.paint("accent"), 6)


@family("playthings", "acoustic guitar", "pickguard, strap")
def guitar(rng: np.random.Generator) -> list[Part]:
  lower, upper = rng.uniform(0.3, 0.36), rng.uniform(0.22, 0.27)
  deep, neck = rng.uniform(0.1, 0.16), rng.uniform(0.6, 0.75)
  waist = lower + upper * 0.75
  bout = cylinder(1, deep).at(y=-deep / 2).turn("x", 90)
  parts = [bout.scale(lower, lower * 0.85, 1)]
  parts += [bout.scale(upper, upper * 0.95, 1).at(y=waist)]
  parts += [box(upper * 1.5, waist, deep)]
  face = deep / 2 + 0.005
  hole = cylinder(0.09, 0.01).turn("x", 90).at(0, waist * 0.62, face)
  saddle = box(0.2, 0.035, 0.03).at(0, -lower * 0.3, face)
  parts += [hole.paint("dark"), saddle.paint("dark")]
  top = waist + upper * 0.9
  parts += [box(0.07, neck + 0.15, 0.05).at(0, top - 0.15, deep / 2)]
  parts += [box(0.13, 0.2, 0.04).at(0, top + neck, deep / 2)]
  pegs = [rod((0.06, y, 0), (0.12, y, 0), 0.015) for y in (0.04, 0.1, 0.16)]
  pegs = [q for p in pegs for q in pair(p)]
  parts += [p.at(0, top + neck, deep / 2) for p in pegs]
  parts[-8:] = [p.paint("accent") for p in parts[-8:]]
  if chance(rng, 0.35):
    guard = cylinder(0.1, 0.01).turn("x", 90).at(0.13, waist * 0.4, face)
    parts += [guard.paint("accent", "pickguard")]
  if chance(rng, 0.3):
    line = [(0, -lower * 0.8, -deep / 2), (-0.55, waist * 0.6, -0.2)]
    line += [(-0.35, top + 0.2, -0.1), (0, top + neck, 0)]
    strap = tube(line, 0.03).paint("dark", "strap")
    parts += [strap]
  return parts


@family("playthings", "barbell", "hexagonal ends")
def dumbbell(rng: np.random.Generator) -> list[Part]:
  bar, radius = rng.uniform(0.35, 0.6), rng.uniform(0.2, 0.3)
  parts = [rod((-bar, 0, 0), (bar, 0, 0), 0.045).paint("accent")]
  if chance(rng, 0.4):
    angle = np.radians(np.arange(0, 360, 60))
    ends = extrude(
      list(zip(radius * np.cos(angle), radius * np.sin(angle), strict=True)),
      rng.uniform(0.25, 0.4),
    )
    ends = ends.turn("y", 90).at(bar).named("hexagonal ends")
    return parts + pair(ends)
  for i in range(int(rng.integers(1, 4))):
    plate = cylinder(radius * 0.85**i, 0.09).turn("z", -90)
    parts += pair(plate.at(bar - 0.05 + 0.1 * i))
  return parts + pair(rod((bar, 0, 0), (bar + 0.3, 0, 0), 0.05))


@family("playthings", "chess pawn, chess piece", "felt base")
def pawn(rng: np.random.Generator) -> list[Part]:
  height, foot = rng.uniform(0.6, 0.8), rng.uniform(0.27, 0.34)
  ball, waist = rng.uniform(0.16, 0.2), rng.uniform(0.09, 0.12)
  profile = [(0, 0), (foot, 0), (foot, 0.08), (foot * 0.85, 0.14)]
  profile += [(foot * 0.7, 0.18), (waist * 1.2, height * 0.5), (waist, height)]
  parts = [revolve(profile), sphere(ball).at(y=height + ball * 0.85)]
  collar = [(0, 0), (ball * 1.15, 0.02), (waist, 0.08)]
  parts += [revolve(collar).at(y=height - 0.05)]
  if chance(rng, 0.4):
    felt = cylinder(foot * 1.03, 0.04).at(y=-0.04)
    parts += [felt.paint("accent", "felt base")]
  return parts


@family("playthings", "snow figure", "top hat, twig arms, scarf")
def snowman(rng: np.random.Generator) -> list[Part]:
  low, mid, top = 0.36, rng.uniform(0.24, 0.29), rng.uniform(0.16, 0.2)
  y1, y2 = low + mid * 1.15, low + mid * 2 + top * 0.75
  parts = [sphere(low), sphere(mid).at(y=y1), sphere(top).at(y=y2)]
  nose = cone(0.04, 0.2).turn("x", 90).at(0, y2, top * 0.9)
  parts += [nose.paint("accent")]
  eye = sphere(0.025).at(top * 0.4, y2 + top * 0.3, top * 0.85)
  parts += pair(eye.paint("dark"))
  for y in (-0.08, 0.08):
    parts += [sphere(0.03).at(0, y1 + y, mid * 0.97).paint("dark")]
  if chance(rng, 0.5):
    tall = [cylinder(top * 1.25, 0.03), cylinder(top * 0.8, 0.24)]
    tall = [p.at(y=y2 + top * 0.8) for p in tall]
    parts += [p.paint("dark", "top hat") for p in tall]
  if chance(rng, 0.6):
    twig = rod((mid * 0.8, y1, 0), (mid + 0.35, y1 + 0.18, 0), 0.02)
    parts += [p.paint("accent", "twig arms") for p in pair(twig)]
  if chance(rng, 0.4):
    scarf = torus(top * 0.85, 0.06).at(y=y2 - top * 0.75)
    parts += [scarf.paint("accent", "scarf")]
  return parts


@family("playthings", "doughnut, toy ring", "icing, sprinkles")
def donut(rng: np.random.Generator) -> list[Part]:
  radius, thick = rng.uniform(0.32, 0.38), rng.uniform(0.13, 0.19)
  parts = [torus(radius, thick)]
  if chance(rng, 0.5):
    icing = torus(radius, thick * 1.08).triangles
    icing = Part(icing[icing[:, :, 1].min(axis=1) > -0.01])
    parts += [icing.paint("accent", "icing")]
  if chance(rng, 0.4):
    for angle in rng.uniform(0, 360, 14):
      bit = rod((-0.05, 0, 0), (0.05, 0, 0), 0.018).turn("y", 3 * angle)
      bit = bit.at(radius, thick * 1.1).turn("y", angle)
      parts += [bit.paint("dark", "sprinkles")]
  return parts


@family("playthings", "pylon, road cone", "reflective bands")
def traffic_cone(rng: np.random.Generator) -> list[Part]:
  foot, height = rng.uniform(0.22, 0.28), rng.uniform(0.7, 0.95)
  tip, plate = rng.uniform(0.03, 0.06), rng.uniform(0.62, 0.75)
  parts = [box(plate, 0.06, plate), cylinder(foot, height, tip).at(y=0.06)]
  if chance(rng, 0.7):
    for low in (0.3, 0.6):
      wide = foot + (tip - foot) * low
      narrow = foot + (tip - foot) * (low + 0.15)
      band = cylinder(wide * 1.04, height * 0.15, narrow * 1.04)
      band = band.at(y=0.06 + low * height)
      parts += [band.paint("accent", "reflective bands")]
  return parts
