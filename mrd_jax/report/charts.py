"""Line charts as inline SVG, with their values for the page's script."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import EngFormatter

from mrd_jax.draw.style import ticks
from mrd_jax.report.curves import SMOOTH_FROM, smoothed
from mrd_jax.report.markup import Markup, join, tag

WIDTH, HEIGHT = 340, 190  # units of the drawing, about pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 8, 24
MOST_POINTS = 300  # drawn of a curve; more cannot be told apart
COLORS = 8  # classes c0 .. c7 of page.css


class Curve(NamedTuple):
  """A curve: its name in the legend, (N,) steps and values, its colour."""

  name: str
  steps_N: np.ndarray
  values_N: np.ndarray
  color: int


def line_chart(
  title: str,
  curves: Sequence[Curve],
  *,
  percent: bool = False,
  limits: tuple[float, float] | None = None,
  rules: Sequence[tuple[float, int]] = (),
  smooth: bool = False,
) -> Markup:
  """A figure: title, drawing, and a legend with the last values.

  A curve that ends before the others do has the step of its last value there.

  Args:
    title: What is drawn over steps.
    curves: At least one, each with at least one point.
    percent: Whether the values are shares.
    limits: Of the vertical axis; by default those of the values.
    rules: Dotted horizontal lines, each a value and a colour.
    smooth: Whether a long curve is drawn smoothed over its thin self.
  """
  curves = [_finite(curve) for curve in curves]
  last = max(
    [curve.steps_N[-1] for curve in curves if len(curve.steps_N)] + [1]
  )
  low, high = limits or _limits(curves)

  def x(step: float) -> float:
    return LEFT + step / last * (WIDTH - LEFT - RIGHT)

  def y(value: float) -> float:
    share = (value - low) / (high - low)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

  parts = [*_axes(low, high, last, x, y, percent)]
  for value, color in rules:
    parts.append(
      tag(
        "line",
        class_=f"rule c{color % COLORS}",
        x1=LEFT,
        x2=WIDTH - RIGHT,
        y1=f"{y(value):.1f}",
        y2=f"{y(value):.1f}",
      )
    )
  for curve in curves:
    steps_N, values_N = curve.steps_N, curve.values_N
    if not len(steps_N):
      continue
    shown_M = np.unique(
      np.linspace(0, len(steps_N) - 1, MOST_POINTS).round().astype(int)
    )
    drawn_N, color = values_N, f"c{curve.color % COLORS}"
    dashed = " dashed" if curve.color >= COLORS else ""
    if smooth and len(steps_N) >= SMOOTH_FROM:
      drawn_N = smoothed(values_N)
      path = _path(x, y, steps_N[shown_M], values_N[shown_M])
      parts.append(tag("path", class_=f"raw {color}", d=path))
    parts.append(
      tag(
        "path",
        class_=f"curve {color}{dashed}",
        d=_path(x, y, steps_N[shown_M], drawn_N[shown_M]),
        data_steps=",".join(f"{step:.0f}" for step in steps_N[shown_M]),
        data_values=",".join(f"{value:.5g}" for value in values_N[shown_M]),
      )
    )
  ends = [
    f"{curve.name} ends at {_end(curve, last, percent)}"
    for curve in curves
    if len(curve.values_N)
  ]
  return tag(
    "figure",
    tag("h4", title),
    tag(
      "svg",
      *parts,
      tag("line", class_="cursor", y1=TOP, y2=HEIGHT - BOTTOM),
      viewBox=f"0 0 {WIDTH} {HEIGHT}",
      role="img",
      tabindex=0,
      aria_label=f"{title} by step, 0 to {last:,.0f}: {'; '.join(ends)}. "
      "Arrow keys read values.",
      data_left=LEFT,
      data_right=WIDTH - RIGHT,
      data_last=f"{last:.0f}",
    ),
    _legend(curves, last, percent),
    class_="chart",
    data_percent=percent,
  )


def _finite(curve: Curve) -> Curve:
  kept_N = np.isfinite(curve.values_N)
  return curve._replace(
    steps_N=curve.steps_N[kept_N], values_N=curve.values_N[kept_N]
  )


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
  values = np.concatenate([curve.values_N for curve in curves])
  if not len(values):
    return 0, 1
  low, high = float(values.min()), float(values.max())
  room = 0.05 * (high - low) or 0.05 * abs(high) or 1
  return low - room, high + room


def _axes(low, high, last, x, y, percent: bool) -> list[Markup]:
  parts = []
  for value in ticks().tick_values(low, high):
    if low - 1e-9 <= value <= high + 1e-9:
      at = f"{y(value):.1f}"
      text = f"{100 * value:g}%" if percent else f"{value:g}"
      parts += [
        tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at),
        tag("text", text, class_="y", x=LEFT - 5, y=at),
      ]
  for step in ticks().tick_values(0, last):
    if 0 <= step <= last:
      text = EngFormatter(sep="")(step)  # 20k
      end = " end" if step > 0.95 * last else ""
      at = f"{x(step):.1f}"
      parts.append(tag("text", text, class_=f"x{end}", x=at, y=HEIGHT - 8))
  return parts


def _path(x, y, steps, values) -> str:
  points = " ".join(
    f"{x(step):.1f},{y(value):.1f}"
    for step, value in zip(steps, values, strict=True)
  )
  return f"M{points}" if len(steps) > 1 else f"M{points} h.01"  # a dot


def _legend(curves: Sequence[Curve], last: float, percent: bool) -> Markup:
  items = [
    tag(
      "li",
      tag("i", class_="dashed" if curve.color >= COLORS else None),
      tag("span", curve.name),
      tag("b", _end(curve, last, percent) if len(curve.values_N) else "–"),
      class_=f"c{curve.color % COLORS}",
    )
    for curve in curves
  ]
  return join(
    [
      tag("ul", *items, class_="legend"),
      tag("p", f"at step {last:,.0f}", class_="at"),
    ]
  )


def _end(curve: Curve, last: float, percent: bool) -> str:
  """The last value, with its step if that is not the chart's last."""
  text, step = _text(curve.values_N[-1], percent), curve.steps_N[-1]
  return text if step == last else f"{text} (step {step:,.0f})"


def _text(value: float, percent: bool) -> str:
  if percent:
    return f"{100 * value:.1f}%"
  digits = 3 - math.floor(math.log10(abs(value))) if value else 0
  return f"{value:.{min(max(digits, 0), 6)}f}"
