"""Builds vehicles, which travel along +x."""

import numpy as np

from mrd_jax.procedural import geometry as g
from mrd_jax.procedural.families.registry import family


def _wheel(radius: float, width: float) -> g.Part:
  """Builds a dark wheel about the z axis, centred on the origin."""
  return g.cylinder(radius, width).at(y=-width / 2).turn("x", 90).dark()


@family(
  "vehicles", "aeroplane, plane, jet", "propeller, jet engines, landing gear"
)
def airplane(rng: np.random.Generator) -> g.Parts:
  length, radius = rng.uniform(1.6, 2.0), rng.uniform(0.12, 0.17)
  span, chord = rng.uniform(0.75, 1.05), rng.uniform(0.3, 0.42)
  sweep, half = rng.uniform(0, 0.45), length / 2
  hull = [(0, -half), (radius * 0.3, -half), (radius, -0.35 * half)]
  hull += [(radius, half * 0.6), (radius * 0.7, half * 0.88), (0, half)]
  yield g.revolve(hull).turn("z", -90)

  def wing(root: float, tip: float, reach: float, back: float) -> g.Part:
    outline = [(root / 2, 0), (-root / 2, 0)]
    outline += [(-back - tip, reach), (tip - back, reach)]
    return g.extrude(outline, 0.03)

  main = wing(chord, chord * 0.2, span, sweep).turn("x", 90)
  yield main.at(0.1, rng.uniform(-0.06, 0.06)).pair("z")
  tail = wing(chord * 0.6, chord * 0.15, span * 0.4, 0.1 + sweep * 0.3)
  yield tail.turn("x", 90).at(-0.88 * half, 0.05).pair("z")
  fin = tail.scale(y=rng.uniform(0.8, 1.1)).at(-0.88 * half, radius * 0.5)
  yield fin.accent()
  if rng.random() < 0.4:
    blade = g.box(0.02, radius * 4.5, 0.06).at(half, -radius * 2.25)
    yield from (p.accent("propeller") for p in [blade, blade.turn("x", 90)])
  elif rng.random() < 0.6:
    pod = g.cylinder(0.07, 0.3, 0.08).turn("z", -90).at(0, -0.12, span * 0.4)
    yield pod.pair("z").accent("jet engines")
  if rng.random() < 0.35:
    main = _wheel(0.07, 0.04).at(0, -radius - 0.15, 0.2).pair("z")
    strut = g.rod((0, -radius - 0.15, 0.2), (0, 0, 0.08), 0.02).pair("z")
    nose = _wheel(0.06, 0.04).at(half * 0.7, -radius - 0.15)
    yield from (p.dark("landing gear") for p in (main, strut, nose))


@family("vehicles", "automobile, sedan", "spoiler, roof rack, open top")
def car(rng: np.random.Generator) -> g.Parts:
  length, width = rng.uniform(1.7, 2.1), rng.uniform(0.75, 0.9)
  wheel, half = rng.uniform(0.17, 0.21), length / 2
  low, mid = wheel * 0.8, wheel * 0.8 + rng.uniform(0.24, 0.32)
  body = [(-half, low), (half, low), (half, mid - 0.08), (half * 0.4, mid)]
  body += [(-half, mid)]
  yield g.extrude(body, width)
  yield _wheel(wheel, 0.14).at(y=wheel).corners(half * 0.62, width / 2)
  roof = mid + rng.uniform(0.24, 0.34)
  back = rng.uniform(0.55, 0.9)  # from a notchback to an estate
  if rng.random() < 0.15:
    screen = g.box(0.03, roof - mid, width * 0.9).turn("z", 25)
    screen = screen.at(half * 0.35, mid).dark("open top")
    seats = g.box(0.12, 0.25, width * 0.35).at(-0.2, mid, width * 0.22)
    yield from [screen, seats.pair("z").accent("open top")]
    return
  cabin = [(-half * back, mid), (half * 0.42, mid), (half * 0.1, roof)]
  cabin += [(-half * back * 0.8, roof)]
  yield g.extrude(cabin, width * 0.88)
  glass = (np.array(cabin) - (0, mid)) * (0.9, 0.7) + (0, mid + 0.04)
  yield g.extrude(glass, width * 0.9).dark()
  if rng.random() < 0.3:
    posts = g.box(0.05, 0.12, 0.04).at(0.08 - half, mid, width * 0.3)
    plank = g.box(0.18, 0.03, width).at(0.08 - half, mid + 0.12)
    yield from (p.accent("spoiler") for p in [posts.pair("z"), plank])
  elif rng.random() < 0.35:
    rail = g.box(half * 0.7, 0.03, 0.03).at(-half * 0.3, roof + 0.05)
    rail = rail.accent("roof rack")
    yield from (rail.at(z=z) for z in (-width / 3, 0, width / 3))


@family("vehicles", "chopper", "skids, floats")
def helicopter(rng: np.random.Generator) -> g.Parts:
  radius, long = rng.uniform(0.26, 0.34), rng.uniform(1.3, 1.7)
  tail, span = rng.uniform(0.85, 1.1), rng.uniform(0.75, 1.0)
  yield g.sphere(radius).scale(x=long)
  yield g.sphere(radius * 0.7).dark().scale(x=1.2).at(radius * 0.7, 0.04)
  boom = g.tube([(-0.2, 0.08, 0), (-tail, 0.14, 0)], (0.12, 0.04))
  fin = g.extrude([(0.1, 0), (-0.05, 0), (-0.18, 0.28), (-0.06, 0.28)], 0.03)
  yield from [boom, fin.at(-tail, 0.12)]
  mast = g.cylinder(0.03, 0.18).at(y=radius)
  blade = g.box(span, 0.02, 0.07).at(span / 2, radius + 0.17)
  blades = blade.around(int(rng.integers(2, 5)), rng.uniform(0, 90))
  rotor = g.box(0.05, 0.3, 0.01).at(-tail, -0.03, 0.06)
  yield from (p.accent() for p in [mast, blades, rotor])
  under, side = -radius - 0.14, radius * 0.85
  strut = [
    g.rod((x, 0.1 - radius, 0.1), (x, under, side), 0.015)
    for x in (-0.18, 0.18)
  ]
  if rng.random() < 0.7:
    line = [(-0.35, under, side), (0.35, under, side)]
    bar = g.tube([*line, (0.45, under + 0.06, side)], 0.018)
    gear, name = [*strut, bar], "skids"
  else:
    buoy = g.sphere(0.09).scale(x=4).at(0, under, side)
    gear, name = [*strut, buoy], "floats"
  yield from (p.pair("z").accent(name) for p in gear)


@family("vehicles", "spaceship, missile", "boosters, porthole")
def rocket(rng: np.random.Generator) -> g.Parts:
  radius, height = rng.uniform(0.14, 0.2), rng.uniform(1.0, 1.4)
  nose = rng.uniform(0.3, 0.45)
  hull = [(0, 0), (radius * 0.8, 0), (radius, height * 0.3), (radius, height)]
  yield g.revolve(hull)
  tip = [(radius, 0), (radius * 0.75, nose * 0.45), (0, nose)]
  yield g.revolve(tip).at(y=height).accent()
  yield g.cylinder(radius * 0.75, 0.12, radius * 0.4).at(y=-0.12).dark()
  reach, up = radius + rng.uniform(0.14, 0.26), rng.uniform(0.3, 0.45)
  fin = [(radius * 0.8, 0.02), (reach, -0.15), (reach, 0.1), (radius, up)]
  count = int(rng.integers(3, 5))
  yield g.extrude(fin, 0.03).around(count).accent()
  if rng.random() < 0.3:
    pod = g.cylinder(0.07, height * 0.6).at(radius + 0.07)
    tip = g.cone(0.07, 0.15).at(radius + 0.07, height * 0.6)
    yield from (p.around(2, 90 / count).named("boosters") for p in (pod, tip))
  if rng.random() < 0.5:
    window = g.torus(0.06, 0.02).turn("x", 90).at(0, height * 0.75, radius)
    yield window.dark("porthole")


@family("vehicles", "sailing boat, yacht", "two sails, deckhouse, pennant")
def sailboat(rng: np.random.Generator) -> g.Parts:
  half, beam = rng.uniform(0.6, 0.75), rng.uniform(0.18, 0.25)
  mast, lean = rng.uniform(1.1, 1.4), rng.uniform(-0.02, 0.06)
  # Half an ellipsoid, cut level, is a hull; the deck closes it.
  hull = g.sphere(1).triangles
  hull = g.Part(hull[hull[:, :, 1].max(axis=1) < 0.01])
  deck = g.cylinder(1, 0.01).scale(half, 1, beam).accent()
  yield from [hull.scale(half, 0.26, beam), deck]
  yield g.rod((lean, 0, 0), (0, mast, 0), 0.018).accent()
  boom = 0.08 * mast + 0.04
  sail = [(-0.03, boom), (-half * 0.9, boom), (-0.03, mast * 0.96)]
  yield g.extrude(sail, 0.015)
  yield g.rod((0, boom, 0), (-half * 0.95, boom, 0), 0.014).accent()
  if rng.random() < 0.6:
    jib = [(0.06, 0.1), (half * 0.95, 0.06), (0.03, mast * 0.8)]
    yield g.extrude(jib, 0.015).named("two sails")
  if rng.random() < 0.35:
    yield g.box(half * 0.4, 0.14, beam).at(half * 0.2).named("deckhouse")
  if rng.random() < 0.35:
    flag = [(0, mast), (0, mast + 0.1), (0.2, mast + 0.05)]
    yield g.extrude(flag, 0.01).accent("pennant")


@family("vehicles", "bike", "basket, luggage rack")
def bicycle(rng: np.random.Generator) -> g.Parts:
  wheel, base = rng.uniform(0.3, 0.36), rng.uniform(0.48, 0.56)
  high = wheel + rng.uniform(0.34, 0.44)
  rear, front = (-base, wheel, 0), (base, wheel, 0)
  pedal, seat = (-0.1, wheel - 0.05, 0), (-0.26, high, 0)
  head = (base - 0.16, high - 0.02, 0)
  tyre = g.torus(wheel, 0.025).turn("x", 90).dark()
  yield from [tyre.at(*rear), tyre.at(*front)]
  spoke = g.rod((-wheel, 0, 0), (wheel, 0, 0), 0.006).accent()
  spokes = [spoke.turn("z", angle) for angle in (0, 45, 90, 135)]
  yield from (p.at(*hub) for hub in (rear, front) for p in spokes)
  bars = [(rear, pedal), (rear, seat), (pedal, seat), (pedal, head)]
  bars += [(seat, head), (head, front)]
  yield from (g.rod(a, b, 0.022) for a, b in bars)
  grip = (head[0] - 0.04, high + 0.14, 0)
  yield from [g.rod(head, grip, 0.02), g.rod(pedal, seat, 0.02)]
  bar = [(0.02, 0, -0.26), (0.06, 0, 0), (0.02, 0, 0.26)]
  yield g.tube(bar, 0.02).at(*grip).accent()
  saddle = g.sphere(0.13).scale(1, 0.3, 0.55).at(-0.28, high + 0.08)
  yield from [saddle.dark(), g.rod(seat, (-0.28, high + 0.08, 0), 0.02)]
  yield g.torus(0.08, 0.015).turn("x", 90).at(*pedal).accent()  # crank
  if rng.random() < 0.35:
    basket = g.box(0.24, 0.18, 0.28).at(grip[0] + 0.2, grip[1] - 0.22)
    yield basket.accent("basket")
  if rng.random() < 0.3:
    rack = g.box(0.32, 0.03, 0.16).at(-base, wheel * 2 + 0.06)
    yield rack.accent("luggage rack")


@family("vehicles", "steam engine, train", "coal tender, headlight")
def locomotive(rng: np.random.Generator) -> g.Parts:
  radius, length = rng.uniform(0.2, 0.26), rng.uniform(0.8, 1.1)
  wheel = rng.uniform(0.13, 0.17)
  axle = wheel + radius + 0.06
  width = 2 * radius
  boiler = g.cylinder(radius, length).turn("z", -90).at(y=axle)
  yield boiler
  yield g.box(length + 0.5, 0.08, width).at(length / 2 - 0.2, wheel)
  cab = g.box(0.42, 2 * radius + 0.2, width + 0.06).at(-0.2, wheel)
  roof = g.box(0.5, 0.04, width + 0.16).at(-0.2, wheel + 2 * radius + 0.2)
  yield from [cab, roof.accent()]
  high = rng.uniform(0.2, 0.34)
  stack = g.cylinder(0.05, high, rng.uniform(0.06, 0.11))
  yield stack.at(length * 0.85, axle + radius * 0.95).accent()
  yield g.sphere(0.09).at(length * 0.45, axle + radius).accent()  # bell
  for x in np.linspace(-0.25, length - 0.1, int(rng.integers(3, 5))):
    yield _wheel(wheel, 0.06).at(x, wheel, radius).pair("z")
  plough = g.extrude([(0, 0.2), (0, 0.02), (0.2, 0.02)], width)
  yield plough.at(length + 0.03).accent()
  if rng.random() < 0.4:
    tender = g.box(0.5, 0.4, width).at(-0.75, wheel).named("coal tender")
    yield from [tender, _wheel(0.11, 0.06).at(-0.75, 0.11, radius).pair("z")]
  if rng.random() < 0.4:
    light = g.cylinder(0.07, 0.1).turn("z", -90).at(length, axle + radius * 0.6)
    yield light.accent("headlight")
