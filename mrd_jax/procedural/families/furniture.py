"""Builds furniture, whose front looks along +z."""

import numpy as np

from mrd_jax.procedural import geometry as g
from mrd_jax.procedural.families.registry import family


def _leg(rng: np.random.Generator, height: float, width: float) -> g.Part:
  """Builds a square or a turned leg, in the accent material."""
  if rng.random() < 0.5:
    return g.box(width, height, width).accent()
  return g.cylinder(width * 0.35, height, width * 0.6).accent()


@family(
  "furniture", "dining chair, side chair", "armrests, slatted back, cushion"
)
def chair(rng: np.random.Generator) -> g.Parts:
  width, depth = rng.uniform(0.42, 0.58, 2)
  seat, back = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.65)
  x, z = width / 2 - 0.03, depth / 2 - 0.03
  yield g.box(width, 0.05, depth).at(y=seat)
  yield _leg(rng, seat, rng.uniform(0.035, 0.06)).corners(x, z)
  if rng.random() < 0.5:
    yield g.box(width, back, 0.04).at(0, seat, -z).turn("x", -4)
  else:
    yield g.box(0.04, back, 0.04).at(x, seat, -z).accent().pair()
    yield from (
      g.box(width, 0.07, 0.025).at(0, y, -z).named("slatted back")
      for y in np.linspace(seat + 0.15, seat + back - 0.07, 3)
    )
  if rng.random() < 0.4:
    arm = g.box(0.04, 0.03, depth).at(x, seat + 0.24)
    post = g.box(0.03, 0.24, 0.03).at(x, seat, z)
    yield from (p.pair().accent("armrests") for p in (arm, post))
  if rng.random() < 0.25:
    cushion = g.sphere(0.5).scale(width * 0.85, 0.1, depth * 0.85)
    yield cushion.at(y=seat + 0.06).named("cushion")


@family(
  "furniture", "dining table, desk", "pedestal, shelf, round top, drawers"
)
def table(rng: np.random.Generator) -> g.Parts:
  width, depth = rng.uniform(0.9, 1.6), rng.uniform(0.6, 0.9)
  height = rng.uniform(0.55, 0.8)
  x, z = width / 2 - 0.06, depth / 2 - 0.06
  if rng.random() < 0.3:
    yield g.cylinder(depth * 0.6, 0.05).at(y=height).named("round top")
    x = z = depth * 0.36
  else:
    yield g.box(width, 0.05, depth).at(y=height)
  if rng.random() < 0.25:
    pedestal = [g.cylinder(0.25, 0.04), g.cylinder(0.05, height)]
    yield from (p.accent("pedestal") for p in pedestal)
    return
  yield _leg(rng, height, rng.uniform(0.05, 0.09)).corners(x, z)
  if rng.random() < 0.3:
    yield g.box(2 * x, 0.03, 2 * z).at(y=height * 0.3).named("shelf")
  elif rng.random() < 0.3:
    drawers = g.box(x, 0.16, 2 * z).at(y=height - 0.16)
    yield drawers.at(x=x / 2).pair().named("drawers")


@family("furniture", "bar stool", "foot ring, square seat")
def stool(rng: np.random.Generator) -> g.Parts:
  height, radius = rng.uniform(0.5, 0.8), rng.uniform(0.15, 0.2)
  spread = radius * rng.uniform(1.1, 1.5)
  leg = g.rod((spread, 0, 0), (radius * 0.7, height, 0), 0.018).accent()
  yield leg.around(int(rng.integers(3, 5)), 45)
  if rng.random() < 0.35:
    side = 1.8 * radius
    yield g.box(side, 0.05, side).at(y=height).named("square seat")
  else:
    yield g.cylinder(radius, 0.05).at(y=height)
  if rng.random() < 0.5:
    ring = g.torus((spread + radius * 0.7) / 2, 0.012).at(y=height / 2)
    yield ring.accent("foot ring")


@family("furniture", "couch", "cushions, feet, chaise")
def sofa(rng: np.random.Generator) -> g.Parts:
  width, depth = rng.uniform(1.5, 2.2), rng.uniform(0.75, 0.9)
  back, arm = rng.uniform(0.7, 0.9), rng.uniform(0.5, 0.62)
  thick = rng.uniform(0.14, 0.24)
  seats = int(rng.integers(2, 4))
  yield g.box(width, 0.32, depth).at(y=0.08)
  yield g.box(width, back - 0.1, 0.2).at(0, 0.08, 0.1 - depth / 2)
  yield g.box(thick, arm - 0.08, depth).at((width - thick) / 2, 0.08).pair()
  span = (width - 2 * thick) / seats
  for i in range(seats):
    x = (i - (seats - 1) / 2) * span
    yield g.box(span * 0.94, 0.1, depth - 0.2).at(x, 0.4, 0.1)
    if rng.random() < 0.5:
      pillow = g.sphere(0.18).scale(1, 1, 0.45).turn("x", -20)
      yield pillow.at(x, 0.66, 0.26 - depth / 2).accent("cushions")
  if rng.random() < 0.4:
    foot = g.cylinder(0.02, 0.08, 0.04).accent()
    yield foot.corners(width / 2 - 0.1, depth / 2 - 0.1).named("feet")
  if rng.random() < 0.25:
    chaise = g.box(span, 0.34, 0.6).named("chaise")
    yield chaise.at((width - span) / 2, 0.08, depth / 2 + 0.3)


@family("furniture", "double bed", "pillows, headboard, bed posts")
def bed(rng: np.random.Generator) -> g.Parts:
  width, length = rng.uniform(1.0, 1.7), rng.uniform(1.9, 2.1)
  x, z = width / 2 - 0.04, length / 2 - 0.04
  yield g.box(width, 0.15, length).at(y=0.2).accent()
  yield g.box(width * 0.95, 0.2, length * 0.96).at(y=0.35)
  yield g.box(width, 0.06, length * 0.55).at(0, 0.52, length * 0.2)
  yield g.box(0.07, 0.2, 0.07).accent().corners(x, z)
  if rng.random() < 0.7:
    board = g.box(width, rng.uniform(0.7, 1.1), 0.06).at(z=-length / 2)
    yield board.accent("headboard")
  if rng.random() < 0.75:
    pillow = g.sphere(0.5).scale(width * 0.4, 0.16, 0.35)
    pillow = pillow.at(width * 0.23, 0.6, 0.3 - length / 2)
    yield pillow.pair().named("pillows")
  if rng.random() < 0.3:
    post = g.cylinder(0.035, rng.uniform(1.3, 1.7)).accent()
    yield post.corners(x, z).named("bed posts")


@family("furniture", "bookcase, shelving unit", "books, back panel")
def bookshelf(rng: np.random.Generator) -> g.Parts:
  width, height = rng.uniform(0.6, 1.0), rng.uniform(1.2, 1.9)
  depth, shelves = rng.uniform(0.25, 0.35), int(rng.integers(4, 7))
  yield g.box(0.03, height, depth).at(width / 2).pair()
  levels = np.linspace(0, height - 0.03, shelves)
  yield from (g.box(width, 0.03, depth).at(y=y) for y in levels)
  if rng.random() < 0.6:
    yield g.box(width, height, 0.01).at(z=-depth / 2).named("back panel")
  if rng.random() < 0.6:
    tall = (levels[1] - 0.03) * 0.75
    for y in levels[:-1]:
      row = width * rng.uniform(0.2, 0.8)
      books = g.box(row, tall, depth * 0.7).accent("books")
      yield books.at((row - width) / 2 + 0.03, y + 0.03)


@family("furniture", "floor lamp, table lamp", "curved neck, tripod base")
def lamp(rng: np.random.Generator) -> g.Parts:
  height, wide = rng.uniform(0.7, 1.4), rng.uniform(0.22, 0.32)
  top, drop = wide * rng.uniform(0.4, 0.75), rng.uniform(0.25, 0.35)
  shade = g.revolve(
    [(wide, 0), (top, drop), (top - 0.01, drop), (wide - 0.01, 0)]
  )
  if rng.random() < 0.35:
    foot = g.rod((0.28, 0, 0), (0, height * 0.45, 0), 0.015)
    yield foot.around(3).accent("tripod base")
  else:
    yield g.revolve([(0, 0), (0.17, 0), (0.15, 0.04), (0, 0.06)]).accent()
  if rng.random() < 0.3:
    bend = g.arc(0.22, 180, 0) + np.array((0.22, height, 0))
    line = np.concatenate([[(0, 0.05, 0)], bend])
    yield g.tube(line, 0.018).accent("curved neck")
    yield shade.at(0.44, height - drop)
  else:
    yield g.cylinder(0.018, height + drop * 0.8).accent()
    yield from [shade.at(y=height), g.sphere(0.06).at(y=height + 0.1)]
