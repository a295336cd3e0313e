"""Builds furniture, whose front looks along +z."""

import numpy as np

from mrd_jax.procedural.families.registry import chance, family
from mrd_jax.procedural.geometry import (
  Part,
  arc,
  around,
  box,
  corners,
  cylinder,
  pair,
  revolve,
  rod,
  sphere,
  torus,
  tube,
)


def _leg(rng: np.random.Generator, height: float, width: float) -> Part:
  """Builds a square or a turned leg, in the accent material."""
  if chance(rng, 0.5):
    return box(width, height, width).paint("accent")
  return cylinder(width * 0.35, height, width * 0.6).paint("accent")


@family(
  "furniture", "dining chair, side chair", "armrests, slatted back, cushion"
)
def chair(rng: np.random.Generator) -> list[Part]:
  width, depth = rng.uniform(0.42, 0.58, 2)
  seat, back = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.65)
  x, z = width / 2 - 0.03, depth / 2 - 0.03
  parts = [box(width, 0.05, depth).at(y=seat)]
  parts += corners(_leg(rng, seat, rng.uniform(0.035, 0.06)), x, z)
  if chance(rng, 0.5):
    parts += [box(width, back, 0.04).at(0, seat, -z).turn("x", -4)]
  else:
    parts += pair(box(0.04, back, 0.04).at(x, seat, -z).paint("accent"))
    parts += [
      box(width, 0.07, 0.025).at(0, y, -z).named("slatted back")
      for y in np.linspace(seat + 0.15, seat + back - 0.07, 3)
    ]
  if chance(rng, 0.4):
    arm = box(0.04, 0.03, depth).at(x, seat + 0.24).paint("accent")
    post = box(0.03, 0.24, 0.03).at(x, seat, z).paint("accent")
    parts += [p.named("armrests") for p in pair(arm) + pair(post)]
  if chance(rng, 0.25):
    cushion = sphere(0.5).scale(width * 0.85, 0.1, depth * 0.85)
    parts += [cushion.at(y=seat + 0.06).named("cushion")]
  return parts


@family(
  "furniture", "dining table, desk", "pedestal, shelf, round top, drawers"
)
def table(rng: np.random.Generator) -> list[Part]:
  width, depth = rng.uniform(0.9, 1.6), rng.uniform(0.6, 0.9)
  height = rng.uniform(0.55, 0.8)
  x, z = width / 2 - 0.06, depth / 2 - 0.06
  if chance(rng, 0.3):
    top = cylinder(depth * 0.6, 0.05).at(y=height).named("round top")
    x = z = depth * 0.36
  else:
    top = box(width, 0.05, depth).at(y=height)
  if chance(rng, 0.25):
    foot = cylinder(0.25, 0.04).paint("accent", "pedestal")
    post = cylinder(0.05, height).paint("accent", "pedestal")
    return [top, foot, post]
  legs = corners(_leg(rng, height, rng.uniform(0.05, 0.09)), x, z)
  if chance(rng, 0.3):
    legs += [box(2 * x, 0.03, 2 * z).at(y=height * 0.3).named("shelf")]
  elif chance(rng, 0.3):
    drawers = box(x, 0.16, 2 * z).at(y=height - 0.16)
    legs += [p.named("drawers") for p in pair(drawers.at(x=x / 2))]
  return [top, *legs]


@family("furniture", "bar stool", "foot ring, square seat")
def stool(rng: np.random.Generator) -> list[Part]:
  height, radius = rng.uniform(0.5, 0.8), rng.uniform(0.15, 0.2)
  spread = radius * rng.uniform(1.1, 1.5)
  leg = rod((spread, 0, 0), (radius * 0.7, height, 0), 0.018).paint("accent")
  parts = around(leg, int(rng.integers(3, 5)), 45)
  if chance(rng, 0.35):
    side = 1.8 * radius
    parts += [box(side, 0.05, side).at(y=height).named("square seat")]
  else:
    parts += [cylinder(radius, 0.05).at(y=height)]
  if chance(rng, 0.5):
    ring = torus((spread + radius * 0.7) / 2, 0.012).at(y=height / 2)
    parts += [ring.paint("accent", "foot ring")]
  return parts


@family("furniture", "couch", "cushions, feet, chaise")
def sofa(rng: np.random.Generator) -> list[Part]:
  width, depth = rng.uniform(1.5, 2.2), rng.uniform(0.75, 0.9)
  back, arm = rng.uniform(0.7, 0.9), rng.uniform(0.5, 0.62)
  thick = rng.uniform(0.14, 0.24)
  seats = int(rng.integers(2, 4))
  parts = [box(width, 0.32, depth).at(y=0.08)]
  parts += [box(width, back - 0.1, 0.2).at(0, 0.08, 0.1 - depth / 2)]
  side = box(thick, arm - 0.08, depth).at((width - thick) / 2, 0.08)
  parts += pair(side)
  span = (width - 2 * thick) / seats
  for i in range(seats):
    x = (i - (seats - 1) / 2) * span
    parts += [box(span * 0.94, 0.1, depth - 0.2).at(x, 0.4, 0.1)]
    if chance(rng, 0.5):
      pillow = sphere(0.18).scale(1, 1, 0.45).turn("x", -20)
      pillow = pillow.at(x, 0.66, 0.26 - depth / 2)
      parts += [pillow.paint("accent", "cushions")]
  if chance(rng, 0.4):
    foot = cylinder(0.02, 0.08, 0.04).paint("accent")
    parts += [
      p.named("feet") for p in corners(foot, width / 2 - 0.1, depth / 2 - 0.1)
    ]
  if chance(rng, 0.25):
    chaise = box(span, 0.34, 0.6).at((width - span) / 2, 0.08, depth / 2 + 0.3)
    parts += [chaise.named("chaise")]
  return parts


@family("furniture", "double bed", "pillows, headboard, bed posts")
def bed(rng: np.random.Generator) -> list[Part]:
  width, length = rng.uniform(1.0, 1.7), rng.uniform(1.9, 2.1)
  x, z = width / 2 - 0.04, length / 2 - 0.04
  parts = [
    box(width, 0.15, length).at(y=0.2).paint("accent"),
    box(width * 0.95, 0.2, length * 0.96).at(y=0.35),
    box(width, 0.06, length * 0.55).at(0, 0.52, length * 0.2),
  ]
  parts += corners(box(0.07, 0.2, 0.07).paint("accent"), x, z)
  if chance(rng, 0.7):
    board = box(width, rng.uniform(0.7, 1.1), 0.06).at(z=-length / 2)
    parts += [board.paint("accent", "headboard")]
  if chance(rng, 0.75):
    pillow = sphere(0.5).scale(width * 0.4, 0.16, 0.35)
    pillow = pillow.at(width * 0.23, 0.6, 0.3 - length / 2)
    parts += [p.named("pillows") for p in pair(pillow)]
  if chance(rng, 0.3):
    post = cylinder(0.035, rng.uniform(1.3, 1.7)).paint("accent")
    parts += [p.named("bed posts") for p in corners(post, x, z)]
  return parts


@family("furniture", "bookcase, shelving unit", "books, back panel")
def bookshelf(rng: np.random.Generator) -> list[Part]:
  width, height = rng.uniform(0.6, 1.0), rng.uniform(1.2, 1.9)
  depth, shelves = rng.uniform(0.25, 0.35), int(rng.integers(4, 7))
  parts = pair(box(0.03, height, depth).at(width / 2))
  levels = np.linspace(0, height - 0.03, shelves)
  parts += [box(width, 0.03, depth).at(y=y) for y in levels]
  if chance(rng, 0.6):
    parts += [box(width, height, 0.01).at(z=-depth / 2).named("back panel")]
  if chance(rng, 0.6):
    tall = (levels[1] - 0.03) * 0.75
    for y in levels[:-1]:
      row = width * rng.uniform(0.2, 0.8)
      books = box(row, tall, depth * 0.7).at((row - width) / 2 + 0.03, y + 0.03)
      parts += [books.paint("accent", "books")]
  return parts


@family("furniture", "floor lamp, table lamp", "curved neck, tripod base")
def lamp(rng: np.random.Generator) -> list[Part]:
  height, wide = rng.uniform(0.7, 1.4), rng.uniform(0.22, 0.32)
  top, drop = wide * rng.uniform(0.4, 0.75), rng.uniform(0.25, 0.35)
  shade = revolve(
    [(wide, 0), (top, drop), (top - 0.01, drop), (wide - 0.01, 0)]
  )
  if chance(rng, 0.35):
    foot = rod((0.28, 0, 0), (0, height * 0.45, 0), 0.015)
    parts = [p.paint("accent", "tripod base") for p in around(foot, 3)]
  else:
    parts = [revolve([(0, 0), (0.17, 0), (0.15, 0.04), (0, 0.06)])]
    parts = [parts[0].paint("accent")]
  if chance(rng, 0.3):
    bend = arc(0.22, 180, 0) + np.array((0.22, height, 0))
    line = np.concatenate([[(0, 0.05, 0)], bend])
    parts += [tube(line, 0.018).paint("accent", "curved neck")]
    return [*parts, shade.at(0.44, height - drop)]
  pole = cylinder(0.018, height + drop * 0.8).paint("accent")
  return [*parts, pole, shade.at(y=height), sphere(0.06).at(y=height + 0.1)]
