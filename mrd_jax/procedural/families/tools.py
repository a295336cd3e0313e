"""Builds tools, upright: the handle is at the bottom unless noted."""

import numpy as np

from mrd_jax.procedural import geometry as g
from mrd_jax.procedural.families.registry import family


@family("tools", "mallet, claw hammer", "rubber grip, claw")
def hammer(rng: np.random.Generator) -> g.Parts:
  height, radius = rng.uniform(0.8, 1.05), rng.uniform(0.03, 0.045)
  head, reach = rng.uniform(0.07, 0.12), rng.uniform(0.2, 0.28)
  yield g.cylinder(radius, height).accent()
  yield g.cylinder(head, reach + 0.05).turn("z", -90).at(-0.05, height)
  yield g.box(2 * head, 2 * head, 1.6 * head).at(0, height - head)
  if rng.random() < 0.55:
    claw = [(-0.05, 0, 0), (-0.16, -0.01, 0), (-0.26, -0.06, 0)]
    claw += [(-0.33, -0.15, 0)]
    tine = g.tube(claw, (0.06, 0.05, 0.035, 0.01)).at(0, height + 0.02, 0.035)
    yield tine.pair("z").named("claw")
  else:
    yield g.cylinder(head, reach).turn("z", 90).at(0, height)
  if rng.random() < 0.4:
    yield g.cylinder(radius * 1.5, height * 0.4).dark("rubber grip")


@family("tools", "stepladder", "support legs, top platform")
def ladder(rng: np.random.Generator) -> g.Parts:
  height, half = rng.uniform(1.4, 2.0), rng.uniform(0.2, 0.28)
  rungs = int(rng.integers(5, 9))
  frame = [g.box(0.05, height, 0.03).at(half).pair()]
  for y in np.linspace(0.12, height - 0.12, rungs):
    frame += [g.rod((-half, y, 0), (half, y, 0), 0.022).accent()]
  if rng.random() >= 0.5:
    yield from frame
    return
  # A stepladder: the frame leans back and a second one supports it.
  lean = rng.uniform(14, 20)
  shift = height * np.sin(np.radians(lean))
  yield from (p.turn("x", -lean).at(z=shift) for p in frame)
  legs = [g.box(0.04, height, 0.03).at(half).pair()]
  legs += [g.box(2 * half, 0.04, 0.02).at(y=height * 0.25)]
  legs = [p.turn("x", lean).at(z=-shift) for p in legs]
  yield from (p.named("support legs") for p in legs)
  if rng.random() < 0.5:
    top = g.box(2 * half + 0.08, 0.04, 0.28)
    yield top.at(y=height * np.cos(np.radians(lean))).named("top platform")


@family("tools", "shears", "long blades", plural=True)
def scissors(rng: np.random.Generator) -> g.Parts:
  angle, loop = rng.uniform(12, 28), rng.uniform(0.11, 0.15)
  long = rng.random() < 0.4
  reach = rng.uniform(0.85, 1.0) if long else rng.uniform(0.5, 0.65)
  blade = g.extrude(
    [(-0.05, -0.05), (0.05, -0.05), (0.05, reach * 0.6), (-0.03, reach)], 0.03
  )
  blade = blade.accent("long blades" if long else "")
  shank = g.rod((0, 0, 0), (-0.02, -0.3, 0), 0.035)
  ring = g.torus(loop, 0.035).turn("x", 90).scale(y=1.3)
  half = [blade, shank, ring.at(-0.04, -0.3 - loop * 1.2)]
  yield from (
    p.scale(x=sign).turn("z", sign * angle).at(z=sign * 0.016)
    for sign in (-1, 1)
    for p in half
  )
  yield g.sphere(0.05).dark()


@family("tools", "door key", "tag, heart bow")
def key(rng: np.random.Generator) -> g.Parts:
  length, bow = rng.uniform(0.6, 0.85), rng.uniform(0.14, 0.2)
  teeth = int(rng.integers(2, 4))
  yield g.rod((0, 0, 0), (0, length, 0), 0.035)
  ring = g.torus(bow, 0.035).turn("x", 90)
  if rng.random() < 0.35:
    lobe = ring.scale(0.8, 1.1, 1).named("heart bow")
    yield from [lobe.at(0.1, -bow), lobe.at(-0.1, -bow)]
  else:
    yield ring.at(y=-bow)
  for i in range(teeth):
    tooth = g.box(rng.uniform(0.12, 0.24), 0.06, 0.04)
    yield tooth.at(0.09, length - 0.1 - i * 0.11)
  yield g.torus(0.045, 0.02).at(y=0.05).accent()
  if rng.random() < 0.35:
    tag = g.box(0.2, 0.3, 0.03).at(0, -2 * bow - 0.34).accent("tag")
    loop = g.torus(0.06, 0.012).turn("y", 90).turn("z", 90)
    yield from [tag, loop.at(y=-2 * bow).accent("tag")]


@family("tools", "longsword, blade", "curved guard, gem")
def sword(rng: np.random.Generator) -> g.Parts:
  length, width = rng.uniform(1.0, 1.3), rng.uniform(0.045, 0.07)
  grip, guard = rng.uniform(0.18, 0.28), rng.uniform(0.16, 0.26)
  outline = [(-width, 0), (width, 0), (width * 0.8, length * 0.85)]
  outline += [(0, length), (-width * 0.8, length * 0.85)]
  yield g.extrude(outline, 0.025)
  yield g.cylinder(0.025, grip).at(y=-grip).dark()
  if rng.random() < 0.5:
    bend = [(-guard, 0.12, 0), (-guard * 0.6, 0, 0), (guard * 0.6, 0, 0)]
    yield g.tube([*bend, (guard, 0.12, 0)], 0.03).accent("curved guard")
  else:
    yield g.box(2 * guard, 0.05, 0.06).at(y=-0.025).accent()
  yield g.sphere(0.05).at(y=-grip - 0.03).accent()
  if rng.random() < 0.35:
    yield g.sphere(0.04).at(0, 0, 0.03).pair("z").named("gem")


@family("tools", "turnscrew", "end cap")
def screwdriver(rng: np.random.Generator) -> g.Parts:
  grip, radius = rng.uniform(0.4, 0.55), rng.uniform(0.1, 0.14)
  shaft, thin = rng.uniform(0.45, 0.7), rng.uniform(0.025, 0.04)
  handle = [(0, 0), (radius * 0.8, 0), (radius, grip * 0.2)]
  handle += [(radius, grip * 0.65), (radius * 0.6, grip * 0.85)]
  handle += [(radius * 0.75, grip), (0, grip)]
  yield g.revolve(handle)
  yield g.box(0.03, grip * 0.5, 0.04).at(radius, grip * 0.15).around(6)
  yield g.cylinder(thin, shaft).at(y=grip).accent()
  tip = [(-thin, 0), (thin, 0), (thin * 1.8, 0.06), (thin * 1.3, 0.14)]
  tip += [(-thin * 1.3, 0.14), (-thin * 1.8, 0.06)]
  yield g.extrude(tip, 0.02).at(y=grip + shaft).accent()
  if rng.random() < 0.4:
    yield g.dome(radius * 0.9).scale(y=-0.8).dark("end cap")


@family("tools", "spade", "looped grip")
def shovel(rng: np.random.Generator) -> g.Parts:
  length, half = rng.uniform(0.7, 1.0), rng.uniform(0.13, 0.18)
  deep = rng.uniform(0.35, 0.45)
  blade = [(-half, 0), (half, 0), (half, -deep * 0.6)]
  if rng.random() < 0.5:  # pointed, or square
    blade += [(half * 0.6, -deep * 0.85), (0, -deep)]
    blade += [(-half * 0.6, -deep * 0.85), (-half, -deep * 0.6)]
  else:
    blade += [(half, -deep), (-half, -deep)]
  yield g.extrude(blade, 0.025)
  yield g.box(0.02, deep * 0.7, 0.07).at(half, -deep * 0.7).pair()
  yield g.cone(0.06, 0.25).turn("x", 180).at(y=0.05)
  yield g.rod((0, -0.05, 0), (0, length, 0), 0.025).accent()
  if rng.random() < 0.6:
    loop = g.tube(g.arc(0.1, 0, 180), 0.022).turn("z", 180).at(0, length + 0.1)
    bar = g.rod((-0.1, 0, 0), (0.1, 0, 0), 0.025).at(y=length + 0.1)
    yield from (p.accent("looped grip") for p in (loop, bar))
