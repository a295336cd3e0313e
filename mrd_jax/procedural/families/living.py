"""Builds animals, which look along +x, and plants."""

import numpy as np

from mrd_jax.procedural import geometry as g
from mrd_jax.procedural.families.registry import family


@family("animals", "goldfish", "spiky fins")
def fish(rng: np.random.Generator) -> g.Parts:
  half, tall = rng.uniform(0.5, 0.65), rng.uniform(0.22, 0.36)
  thick = rng.uniform(0.1, 0.15)
  yield g.sphere(1).scale(half, tall, thick)
  tail = [(0.1, 0), (-0.28, 0.3), (-0.18, 0), (-0.28, -0.3)]
  yield g.extrude(tail, 0.025).at(-half - 0.02).accent()
  if rng.random() < 0.4:
    for x in np.linspace(-0.25, 0.25, 4):
      spike = g.extrude([(-0.06, 0), (0.06, 0), (-0.1, 0.22)], 0.02)
      yield spike.at(x, tall * 0.88).accent("spiky fins")
  else:
    back = [(-0.25, 0), (0.2, 0), (-0.02, 0.2), (-0.25, 0.2)]
    yield g.extrude(back, 0.02).at(0, tall * 0.85).accent()
  side = g.extrude([(0, 0), (-0.2, 0.07), (-0.2, -0.09)], 0.02)
  side = side.turn("y", -35).at(half * 0.3, -tall * 0.25, thick * 0.85)
  eye = g.sphere(0.045).at(half * 0.68, tall * 0.2, thick * 0.65)
  yield from [side.accent().pair("z"), eye.dark().pair("z")]


@family("animals", "puppy", "collar, long ears")
def dog(rng: np.random.Generator) -> g.Parts:
  half, leg = rng.uniform(0.38, 0.52), rng.uniform(0.25, 0.4)
  fat = rng.uniform(0.15, 0.2)
  y = leg + fat * 0.7
  spine = [(-half, y, 0), (0, y - 0.02, 0), (half, y, 0)]
  yield g.tube(spine, (fat * 0.85, fat * 0.9, fat))
  yield from [g.sphere(fat * 0.85).at(-half, y), g.sphere(fat).at(half, y)]
  yield g.cylinder(0.05, leg, 0.075).corners(half * 0.9, fat * 0.6)
  hx, hy = half + 0.16, y + rng.uniform(0.28, 0.36)
  yield g.rod((half, y, 0), (hx, hy, 0), 0.1)
  yield g.sphere(0.16).at(hx, hy)
  yield g.cylinder(0.1, 0.22, 0.07).turn("z", -95).at(hx + 0.06, hy - 0.03)
  yield g.sphere(0.045).at(hx + 0.28, hy - 0.02).dark()
  eye = g.sphere(0.025).at(hx + 0.12, hy + 0.07, 0.08).dark()
  if rng.random() < 0.5:
    ear = g.sphere(0.12).scale(0.6, 1.2, 0.3).at(hx - 0.04, hy - 0.02, 0.17)
    ear = ear.accent("long ears")
  else:
    ear = g.cone(0.06, 0.16).at(hx - 0.03, hy + 0.11, 0.08).accent()
  yield from [eye.pair("z"), ear.pair("z")]
  tail = [(-half, y + 0.05, 0), (-half - 0.15, y + 0.15, 0)]
  tail += [(-half - 0.2, y + 0.35, 0)]
  yield g.tube(tail, (0.045, 0.035, 0.02))
  if rng.random() < 0.4:
    collar = g.torus(0.11, 0.025).turn("z", -25).accent("collar")
    yield collar.at((half + hx) / 2, (y + hy) / 2)


@family("animals", parts="spots")
def giraffe(rng: np.random.Generator) -> g.Parts:
  half, leg = rng.uniform(0.26, 0.33), rng.uniform(0.6, 0.75)
  neck, fat = rng.uniform(0.65, 0.9), rng.uniform(0.14, 0.18)
  y = leg + fat * 0.6
  yield g.sphere(1).scale(half + 0.1, fat, fat * 0.8).turn("z", 12).at(y=y)
  yield g.cylinder(0.035, leg + 0.05, 0.05).corners(half * 0.8, fat * 0.45)
  top = (half + 0.28, y + neck, 0)
  line = [(half * 0.7, y, 0), (half + 0.1, y + neck * 0.4, 0), top]
  yield g.tube(line, (0.12, 0.075, 0.055))
  head = g.sphere(0.08).scale(2, 1, 0.9).turn("z", -25)
  yield head.at(top[0] + 0.08, top[1])
  horn = g.rod((0, 0, 0.03), (-0.03, 0.13, 0.05), 0.016).accent()
  horn = horn.at(top[0], top[1] + 0.04)
  ear = g.sphere(0.05).scale(0.5, 0.6, 1.6).at(top[0], top[1] + 0.03, 0.1)
  yield from [horn.pair("z"), ear.pair("z")]
  tail = g.rod((-half - 0.05, y, 0), (-half - 0.14, y - 0.35, 0), 0.02)
  yield tail.accent()
  if rng.random() < 0.5:
    for _ in range(8):
      x, up = rng.uniform(-half, half), rng.uniform(-0.4, 0.7)
      spot = g.sphere(0.06).scale(z=0.4).at(x, y + up * fat, fat * 0.68)
      yield spot.pair("z").accent("spots")


@family("animals", "tarantula", "fangs")
def spider(rng: np.random.Generator) -> g.Parts:
  belly, knee = rng.uniform(0.2, 0.28), rng.uniform(0.3, 0.45)
  reach = rng.uniform(0.7, 0.9)
  yield g.sphere(belly).scale(1.25, 0.9, 1).at(-0.26, 0.28)
  yield g.sphere(0.15).scale(1.1, 0.8, 1).at(0.08, 0.24)
  for angle in (-60, -22, 18, 52):
    line = [(0, 0.22, 0.08), (0, 0.22 + knee, reach * 0.5), (0, 0, reach)]
    leg = g.tube(line, (0.035, 0.03, 0.012))
    yield leg.turn("y", angle).at(0.06).accent().pair("z")
  yield g.sphere(0.03).at(0.2, 0.3, 0.05).dark().pair("z")  # eyes
  if rng.random() < 0.5:
    fang = g.cone(0.035, 0.16).turn("z", 190).at(0.24, 0.22, 0.05)
    yield fang.pair("z").dark("fangs")


@family("animals", parts="striped shell")
def snail(rng: np.random.Generator) -> g.Parts:
  size, turns = rng.uniform(0.28, 0.36), rng.uniform(2.0, 2.6)
  body = [(-0.6, 0.02, 0), (-0.3, 0.09, 0), (0.25, 0.1, 0)]
  body += [(0.45, 0.2, 0), (0.52, rng.uniform(0.36, 0.46), 0)]
  yield g.tube(body, (0.02, 0.09, 0.11, 0.1, 0.08))
  head = np.array(body[-1])
  yield g.sphere(0.1).at(*head)
  for side in (-0.07, 0.07):
    tip = head + (0.1, 0.24, side * 1.6)
    stalk = g.rod(head + (0, 0, side * 0.5), tip, 0.018)
    yield from [stalk, g.sphere(0.032).at(*tip).dark()]
  angle = np.linspace(0, 2 * np.pi * turns, 40)
  grow = np.linspace(0.06, 1, 40)
  spiral = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  spiral = size * 0.68 * grow[:, None] * spiral[:, ::-1]
  line = np.concatenate([spiral, 0.12 * (1 - grow)[:, None]], axis=1)
  shell = g.tube(line, size * 0.36 * grow).scale(z=1.3)
  yield shell.at(-0.1, 0.12 + size * 0.9).accent()
  if rng.random() < 0.4:
    stripe = g.tube(line * 1.12, size * 0.31 * grow)
    yield stripe.at(-0.1, 0.12 + size * 0.9).named("striped shell")


@family("animals", "moth", "wing dots, swallow tails")
def butterfly(rng: np.random.Generator) -> g.Parts:
  # Seen from the front: the wings lie in the xy plane, folded a little.
  span, lift = rng.uniform(0.6, 0.8), rng.uniform(0.35, 0.5)
  fold = rng.uniform(5, 30)
  upper = [(0, 0.05), (0.12, lift), (span * 0.8, lift + 0.22)]
  upper += [(span, lift + 0.1), (span * 0.85, 0.05), (0.3, -0.02)]
  lower = [(0, 0), (span * 0.6, -0.05), (span * 0.7, -0.3)]
  lower += [(span * 0.45, -0.48), (0.15, -0.35)]
  wings = [g.extrude(upper, 0.02), g.extrude(lower, 0.02).accent()]
  if rng.random() < 0.4:
    dot = g.sphere(0.09).scale(z=0.35).at(span * 0.7, lift * 0.75)
    wings += [dot.dark("wing dots")]
  if rng.random() < 0.4:
    tail = g.tube([(span * 0.45, -0.4, 0), (span * 0.5, -0.75, 0)], 0.035)
    wings += [tail.accent("swallow tails")]
  yield from (w.turn("y", -fold).pair() for w in wings)
  yield g.sphere(0.06).scale(y=6).dark()
  feeler = g.tube([(0, 0.34, 0), (0.06, 0.5, 0), (0.17, 0.6, 0)], 0.012)
  yield feeler.dark().pair()


@family("plants", "oak tree, leafy tree", "apples, low branches")
def tree(rng: np.random.Generator) -> g.Parts:
  trunk, crown = rng.uniform(0.5, 0.8), rng.uniform(0.32, 0.45)
  yield g.cylinder(0.09, trunk + 0.1, 0.06).accent()
  centre = trunk + crown * 0.7
  yield g.sphere(crown).at(y=centre)
  blobs = int(rng.integers(4, 8))
  for i in range(blobs):
    angle = 2 * np.pi * (i + rng.uniform(0, 0.6)) / blobs
    x, z = crown * 0.75 * np.cos(angle), crown * 0.75 * np.sin(angle)
    blob = g.sphere(crown * rng.uniform(0.5, 0.7))
    yield blob.at(x, centre + crown * rng.uniform(-0.3, 0.45), z)
  if rng.random() < 0.3:
    for _ in range(9):
      way = rng.normal(size=3)
      way *= 1.15 * crown / np.linalg.norm(way)
      apple = g.sphere(0.06).at(way[0], way[1] * 0.8 + centre, way[2])
      yield apple.accent("apples")
  if rng.random() < 0.35:
    low = trunk * rng.uniform(0.45, 0.65)
    branch = g.rod((0, low, 0), (0.32, low + 0.2, 0), 0.025)
    yield branch.around(3, rng.uniform(0, 90)).accent("low branches")


@family("plants", "palm tree, coconut palm", "coconuts")
def palm(rng: np.random.Generator) -> g.Parts:
  height, bend = rng.uniform(1.0, 1.3), rng.uniform(0.05, 0.3)
  up = np.linspace(0, 1, 9)
  line = np.stack([bend * up**2, height * up, 0 * up], axis=1)
  yield g.tube(line, 0.085 - 0.04 * up).accent()
  reach = rng.uniform(0.5, 0.65)
  out = np.linspace(0, 1, 7)
  drop = 0.9 * out - 1.35 * out**2
  frond = np.stack([reach * out, 0.4 * drop, 0 * out], axis=1)
  # A flattened tube, thick in the middle, makes a leaf.
  leaf = g.tube(frond, 0.1 * np.sin(np.pi * (0.12 + 0.86 * out)))
  leaves = leaf.around(int(rng.integers(6, 10)), rng.uniform(0, 60))
  yield leaves.at(bend, height)
  if rng.random() < 0.45:
    nut = g.sphere(0.075).at(0.1, -0.06).dark("coconuts")
    yield nut.around(3).at(bend, height)


@family("plants", "saguaro", "blossom, pot")
def cactus(rng: np.random.Generator) -> g.Parts:
  height, radius = rng.uniform(0.9, 1.2), rng.uniform(0.12, 0.16)
  yield from [g.cylinder(radius, height), g.dome(radius).at(y=height)]
  for side in [1, -1] if rng.random() < 0.75 else [1]:
    low, long = height * rng.uniform(0.3, 0.5), rng.uniform(0.26, 0.34)
    top = low + rng.uniform(0.28, 0.45)
    arm = [(0, low, 0), (long * 0.75, low, 0), (long, low + 0.08, 0)]
    arm += [(long, top, 0)]
    thick = radius * 0.62
    yield g.tube(arm, thick).scale(x=side)
    yield g.dome(thick).at(side * long, top)
  if rng.random() < 0.4:
    yield g.sphere(0.08).scale(y=0.7).at(y=height + radius).accent("blossom")
  if rng.random() < 0.4:
    yield g.cylinder(radius * 1.3, 0.3, radius * 1.9).at(y=-0.3).accent("pot")


@family("plants", "toadstool", "dots, skirt")
def mushroom(rng: np.random.Generator) -> g.Parts:
  stem, cap = rng.uniform(0.4, 0.65), rng.uniform(0.4, 0.52)
  high, thick = rng.uniform(0.55, 0.9), rng.uniform(0.1, 0.15)
  profile = [(0, 0), (thick * 1.25, 0), (thick, stem * 0.4)]
  profile += [(thick * 0.85, stem)]
  yield g.revolve(profile).accent()
  yield g.dome(cap).scale(y=high).at(y=stem)
  yield g.revolve([(cap, 0), (thick, 0.04)]).at(y=stem).accent()
  if rng.random() < 0.5:
    for count, latitude in ((8, 20), (5, 50), (1, 88)):
      out = cap * np.cos(np.radians(latitude))
      y = stem + cap * high * np.sin(np.radians(latitude))
      yield g.sphere(0.06).at(out, y).around(count, latitude).accent("dots")
  if rng.random() < 0.35:
    skirt = g.cylinder(thick * 1.9, 0.1, thick * 0.9).at(y=stem * 0.65)
    yield skirt.accent("skirt")


@family("plants", "daisy, blossoming flower", "leaves, flowerpot")
def flower(rng: np.random.Generator) -> g.Parts:
  height, heart = rng.uniform(0.8, 1.0), rng.uniform(0.1, 0.14)
  petal = rng.uniform(0.13, 0.17)
  count = int(rng.integers(5, 9))
  bloom = [g.sphere(heart).scale(y=0.6).dark()]
  one = g.sphere(petal).scale(1.4, 0.25, min(1.0, 4.2 / count))
  bloom += [one.turn("z", 12).at(heart + petal).around(count)]
  tilt = rng.uniform(35, 75)
  yield from (p.turn("x", tilt).at(y=height) for p in bloom)
  line = [(0, 0, -0.05), (0.04, height / 2, -0.07), (0, height, 0)]
  yield g.tube(line, 0.028).accent()
  if rng.random() < 0.6:
    leaf = g.sphere(0.17).scale(1.2, 0.2, 0.5).turn("z", 35)
    leaf = leaf.at(0.19, height * rng.uniform(0.25, 0.45), -0.05)
    yield leaf.pair().accent("leaves")
  if rng.random() < 0.4:
    yield g.cylinder(0.13, 0.28, 0.2).at(y=-0.2).accent("flowerpot")
