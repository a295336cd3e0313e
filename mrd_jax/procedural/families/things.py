"""Accessories and playthings."""

import numpy as np

from mrd_jax.procedural import geometry as g
from mrd_jax.procedural.families.registry import family


@family("accessories", "headset", "microphone", plural=True)
def headphones(rng: np.random.Generator) -> g.Parts:
  radius, cup = rng.uniform(0.45, 0.52), rng.uniform(0.17, 0.23)
  tall = rng.uniform(1.05, 1.25)
  yield g.tube(g.arc(radius, 0, 180, tall=tall), 0.045).scale(z=1.6)
  shell = g.cylinder(cup, 0.1).turn("z", -90).at(radius - 0.05, -cup * 0.6)
  cushion = g.torus(cup * 0.8, 0.06).turn("z", 90)
  cushion = cushion.at(radius - 0.07, -cup * 0.6).dark()
  yield from [shell.accent().pair(), cushion.pair()]
  if rng.random() < 0.4:
    boom = [(radius, -cup, 0.05), (radius - 0.08, -cup - 0.22, 0.3)]
    boom += [(radius - 0.3, -cup - 0.26, 0.42)]
    mic = g.sphere(0.05).at(*boom[-1])
    yield from (p.dark("microphone") for p in (g.tube(boom, 0.02), mic))


@family(
  "accessories",
  "spectacles, eyeglasses",
  "dark lenses, square frames",
  plural=True,
)
def glasses(rng: np.random.Generator) -> g.Parts:
  size, gap = rng.uniform(0.21, 0.26), rng.uniform(0.05, 0.08)
  x, tall = size + gap, rng.uniform(0.75, 1.0)
  if rng.random() < 0.5:
    a, b = size, size * tall
    loop = [(-a, -b, 0), (a, -b, 0), (a, b, 0), (-a, b, 0)]
    rim = [g.rod(loop[i - 1], loop[i], 0.025) for i in range(4)]
    rim = [p.named("square frames") for p in rim]
  else:
    rim = [g.torus(size, 0.025).turn("x", 90).scale(y=tall)]
  yield from (p.at(x).pair() for p in rim)
  if rng.random() < 0.45:
    lens = g.cylinder(size, 0.01).turn("x", 90).scale(y=tall).at(x)
    yield lens.pair().dark("dark lenses")
  yield g.tube([(-gap, 0.05, 0), (0, 0.09, 0), (gap, 0.05, 0)], 0.025)
  edge, long = x + size, rng.uniform(0.75, 0.95)
  temple = [(edge, 0.03, 0), (edge, 0.03, -long * 0.8), (edge, -0.14, -long)]
  yield g.tube(temple, 0.025).accent().pair()


@family("accessories", "sun hat, fedora", "feather, pointed crown")
def hat(rng: np.random.Generator) -> g.Parts:
  crown, brim = rng.uniform(0.26, 0.32), rng.uniform(0.5, 0.62)
  height, curl = rng.uniform(0.28, 0.45), rng.uniform(0, 0.12)
  edge = [(crown * 0.95, 0), (brim * 0.8, 0.01), (brim, curl)]
  yield from [g.revolve(edge), g.revolve([(r, y + 0.02) for r, y in edge])]
  if rng.random() < 0.3:
    top = [(crown, 0), (crown * 0.5, height), (0, height * 2)]
    yield g.revolve(top).named("pointed crown")
  else:
    top = [(crown, 0), (crown * 0.9, height * 0.85), (crown * 0.7, height)]
    yield g.revolve([*top, (0, height * 0.97)])
  band = g.cylinder(crown * 1.04, height * 0.25, crown * 1.0).at(y=0.02)
  yield band.accent()
  if rng.random() < 0.35:
    line = [(crown, 0.05, 0), (crown + 0.05, 0.3, 0), (crown - 0.1, 0.55, 0)]
    yield g.tube(line, (0.015, 0.07, 0.01)).scale(z=0.4).accent("feather")


@family("accessories", "parasol", "hooked handle, ball handle")
def umbrella(rng: np.random.Generator) -> g.Parts:
  radius, height = rng.uniform(0.5, 0.65), rng.uniform(0.9, 1.1)
  deep = rng.uniform(0.5, 0.75)
  canopy = g.dome(radius).scale(y=deep).at(y=height - radius * deep)
  yield from [canopy, canopy.scale(0.97, 0.995, 0.97)]
  yield g.cylinder(0.022, height + 0.1).accent()
  if rng.random() < 0.65:
    yield g.tube(g.arc(0.09, 180, 360), 0.028).at(0.09).accent("hooked handle")
  else:
    yield g.sphere(0.06).accent("ball handle")
  rib = g.rod(
    (0, height * 0.62, 0), (radius * 0.8, height - radius * deep * 0.4, 0), 0.01
  )
  yield rib.accent().around(6)


@family("playthings", "acoustic guitar", "pickguard, strap")
def guitar(rng: np.random.Generator) -> g.Parts:
  lower, upper = rng.uniform(0.3, 0.36), rng.uniform(0.22, 0.27)
  deep, neck = rng.uniform(0.1, 0.16), rng.uniform(0.6, 0.75)
  waist = lower + upper * 0.75
  bout = g.cylinder(1, deep).at(y=-deep / 2).turn("x", 90)
  yield bout.scale(lower, lower * 0.85, 1)
  yield bout.scale(upper, upper * 0.95, 1).at(y=waist)
  yield g.box(upper * 1.5, waist, deep)
  face = deep / 2 + 0.005
  hole = g.cylinder(0.09, 0.01).turn("x", 90).at(0, waist * 0.62, face)
  saddle = g.box(0.2, 0.035, 0.03).at(0, -lower * 0.3, face)
  yield from [hole.dark(), saddle.dark()]
  top = waist + upper * 0.9
  yield g.box(0.07, neck + 0.15, 0.05).at(0, top - 0.15, deep / 2).accent()
  head = [g.box(0.13, 0.2, 0.04)]
  for y in (0.04, 0.1, 0.16):  # pegs
    head += [g.rod((0.06, y, 0), (0.12, y, 0), 0.015).pair()]
  yield from (p.at(0, top + neck, deep / 2).accent() for p in head)
  if rng.random() < 0.35:
    guard = g.cylinder(0.1, 0.01).turn("x", 90).at(0.13, waist * 0.4, face)
    yield guard.accent("pickguard")
  if rng.random() < 0.3:
    line = [(0, -lower * 0.8, -deep / 2), (-0.55, waist * 0.6, -0.2)]
    line += [(-0.35, top + 0.2, -0.1), (0, top + neck, 0)]
    yield g.tube(line, 0.03).dark("strap")


@family("playthings", "barbell", "hexagonal ends")
def dumbbell(rng: np.random.Generator) -> g.Parts:
  bar, radius = rng.uniform(0.35, 0.6), rng.uniform(0.2, 0.3)
  yield g.rod((-bar, 0, 0), (bar, 0, 0), 0.045).accent()
  if rng.random() < 0.4:
    angle = np.radians(np.arange(0, 360, 60))
    outline = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ends = g.extrude(outline, rng.uniform(0.25, 0.4))
    ends = ends.turn("y", 90).at(bar).named("hexagonal ends")
    yield ends.pair()
    return
  for i in range(int(rng.integers(1, 4))):
    plate = g.cylinder(radius * 0.85**i, 0.09).turn("z", -90)
    yield plate.at(bar - 0.05 + 0.1 * i).pair()
  yield g.rod((bar, 0, 0), (bar + 0.3, 0, 0), 0.05).pair()


@family("playthings", "chess pawn, chess piece", "felt base")
def pawn(rng: np.random.Generator) -> g.Parts:
  height, foot = rng.uniform(0.6, 0.8), rng.uniform(0.27, 0.34)
  ball, waist = rng.uniform(0.16, 0.2), rng.uniform(0.09, 0.12)
  profile = [(0, 0), (foot, 0), (foot, 0.08), (foot * 0.85, 0.14)]
  profile += [(foot * 0.7, 0.18), (waist * 1.2, height * 0.5), (waist, height)]
  yield from [g.revolve(profile), g.sphere(ball).at(y=height + ball * 0.85)]
  collar = [(0, 0), (ball * 1.15, 0.02), (waist, 0.08)]
  yield g.revolve(collar).at(y=height - 0.05)
  if rng.random() < 0.4:
    yield g.cylinder(foot * 1.03, 0.04).at(y=-0.04).accent("felt base")


@family("playthings", "snow figure", "top hat, twig arms, scarf")
def snowman(rng: np.random.Generator) -> g.Parts:
  low, mid, top = 0.36, rng.uniform(0.24, 0.29), rng.uniform(0.16, 0.2)
  y1, y2 = low + mid * 1.15, low + mid * 2 + top * 0.75
  yield from [g.sphere(low), g.sphere(mid).at(y=y1), g.sphere(top).at(y=y2)]
  nose = g.cone(0.04, 0.2).turn("x", 90).at(0, y2, top * 0.9)
  yield nose.accent()
  eye = g.sphere(0.025).at(top * 0.4, y2 + top * 0.3, top * 0.85)
  yield eye.dark().pair()
  for y in (-0.08, 0.08):
    yield g.sphere(0.03).at(0, y1 + y, mid * 0.97).dark()
  if rng.random() < 0.5:
    tall = [g.cylinder(top * 1.25, 0.03), g.cylinder(top * 0.8, 0.24)]
    yield from (p.at(y=y2 + top * 0.8).dark("top hat") for p in tall)
  if rng.random() < 0.6:
    twig = g.rod((mid * 0.8, y1, 0), (mid + 0.35, y1 + 0.18, 0), 0.02)
    yield twig.pair().accent("twig arms")
  if rng.random() < 0.4:
    yield g.torus(top * 0.85, 0.06).at(y=y2 - top * 0.75).accent("scarf")


@family("playthings", "doughnut, toy ring", "icing, sprinkles")
def donut(rng: np.random.Generator) -> g.Parts:
  radius, thick = rng.uniform(0.32, 0.38), rng.uniform(0.13, 0.19)
  yield g.torus(radius, thick)
  if rng.random() < 0.5:
    icing = g.torus(radius, thick * 1.08).triangles
    yield g.Part(icing[icing[:, :, 1].min(axis=1) > -0.01]).accent("icing")
  if rng.random() < 0.4:
    for angle in rng.uniform(0, 360, 14):
      bit = g.rod((-0.05, 0, 0), (0.05, 0, 0), 0.018).turn("y", 3 * angle)
      yield bit.at(radius, thick * 1.1).turn("y", angle).dark("sprinkles")


@family("playthings", "pylon, road cone", "reflective bands")
def traffic_cone(rng: np.random.Generator) -> g.Parts:
  foot, height = rng.uniform(0.22, 0.28), rng.uniform(0.7, 0.95)
  tip, plate = rng.uniform(0.03, 0.06), rng.uniform(0.62, 0.75)
  yield g.box(plate, 0.06, plate)
  yield g.cylinder(foot, height, tip).at(y=0.06)
  if rng.random() < 0.7:
    for low in (0.3, 0.6):
      wide = foot + (tip - foot) * low
      narrow = foot + (tip - foot) * (low + 0.15)
      band = g.cylinder(wide * 1.04, height * 0.15, narrow * 1.04)
      yield band.at(y=0.06 + low * height).accent("reflective bands")
