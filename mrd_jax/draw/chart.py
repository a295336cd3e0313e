"""Draws charts over steps: as SVG for a page, or together as one PNG.

Both draw the same `Chart`.  The SVG takes its colours from the page's style,
and holds its values for the page's script.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from mrd_jax.draw import style
from mrd_jax.draw.markup import Markup, tag

SMOOTH_FROM = 60  # points; below, a smoothed line would only hide them
MOST_POINTS = 300  # of a curve in SVG; more cannot be told apart
COLORS = 8  # classes c0 .. c7 of page.css; from there on dashed
GREY = 7
WIDTH, HEIGHT = 340, 190  # units of the SVG, about pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 8, 24


class Curve(NamedTuple):
  """A curve: its name in the legend, (N,) steps and values, its colour."""

  name: str
  steps_N: np.ndarray
  values_N: np.ndarray
  color: int


@dataclasses.dataclass(frozen=True)
class Chart:
  """What is drawn.

  Attributes:
    title: What is drawn over steps.
    curves: At least one; what is not finite is left out.
    limits: Of the vertical axis; by default those of the values.
    percent: Whether the values are shares.
    rules: Dotted horizontal lines, each a value and a colour.
    smooth: Whether a long curve is drawn smoothed over its thin self.
    note: A line below the title.
    unit: Of the values, in the PNG.
  """

  title: str
  curves: Sequence[Curve]
  limits: tuple[float, float] | None = None
  percent: bool = False
  rules: Sequence[tuple[float, int]] = ()
  smooth: bool = False
  note: str = ""
  unit: str = ""

  def finite(self) -> list[Curve]:
    """Returns the curves without what is not finite."""
    kept = [np.isfinite(curve.values_N) for curve in self.curves]
    return [
      Curve(c.name, c.steps_N[kept_N], c.values_N[kept_N], c.color)
      for c, kept_N in zip(self.curves, kept, strict=True)
    ]

  def last(self) -> float:
    """Returns the last step of all curves."""
    steps = [c.steps_N[-1] for c in self.finite() if len(c.steps_N)]
    return max([*steps, 1])

  def span(self) -> tuple[float, float]:
    """Returns the lowest and the highest value of the axis."""
    if self.limits:
      return self.limits
    values = np.concatenate([curve.values_N for curve in self.finite()])
    if not len(values):
      return 0, 1
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1
    return low - room, high + room


def svg(chart: Chart) -> Markup:
  """Draws a figure: title, chart, and a legend with the last values.

  A curve that ends before the others do has the step of its last value there.
  """
  last, (low, high) = chart.last(), chart.span()

  def x(step: float) -> str:
    return f"{LEFT + step / last * (WIDTH - LEFT - RIGHT):.1f}"

  def y(value: float) -> str:
    share = (value - low) / (high - low)
    return f"{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM):.1f}"

  def line(value: float, kind: str) -> Markup:
    ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": y(value), "y2": y(value)}
    return tag("line", class_=kind, **ends)

  def path(kind: str, steps_M: np.ndarray, values_M: np.ndarray, **data):
    points = " ".join(
      map(",".join, zip(map(x, steps_M), map(y, values_M), strict=True))
    )
    dot = " h.01" if len(steps_M) == 1 else ""
    return tag("path", class_=kind, d=f"M{points}{dot}", **data)

  parts = []
  for value in _ticks(low, high):
    text = f"{100 * value:g}%" if chart.percent else f"{value:g}"
    parts.append(line(value, "grid"))
    parts.append(tag("text", text, class_="y", x=LEFT - 5, y=y(value)))
  for step in _ticks(0, last):
    kind = "x end" if step > 0.95 * last else "x"
    text = EngFormatter(sep="")(step)  # 20k
    parts.append(tag("text", text, class_=kind, x=x(step), y=HEIGHT - 8))
  parts += [line(value, f"rule c{color}") for value, color in chart.rules]
  items, ends = [], []
  for curve in chart.finite():
    steps_N, values_N = curve.steps_N, curve.values_N
    color, end = f"c{curve.color % COLORS}", "–"
    dashed = " dashed" if curve.color >= COLORS else ""
    if len(steps_N):
      shown_M = np.linspace(0, len(steps_N) - 1, MOST_POINTS)
      shown_M = np.unique(shown_M.round().astype(int))
      steps_M, values_M = steps_N[shown_M], values_N[shown_M]
      drawn_M = values_M
      if chart.smooth and len(steps_N) >= SMOOTH_FROM:
        parts.append(path(f"raw {color}", steps_M, values_M))
        drawn_M = smoothed(values_N)[shown_M]
      parts.append(
        path(
          f"curve {color}{dashed}",
          steps_M,
          drawn_M,
          data_steps=",".join(f"{step:.0f}" for step in steps_M),
          data_values=",".join(f"{value:.5g}" for value in values_M),
        )
      )
      end = _value(values_N[-1], chart.percent)
      if steps_N[-1] != last:
        end += f" (step {steps_N[-1]:,.0f})"
      ends.append(f"{curve.name} ends at {end}")
    mark = tag("i", class_="dashed" if dashed else None)
    items.append(
      tag("li", mark, tag("span", curve.name), tag("b", end), class_=color)
    )
  return tag(
    "figure",
    tag("h4", chart.title),
    tag("p", chart.note, class_="note") if chart.note else None,
    tag(
      "svg",
      *parts,
      tag("line", class_="cursor", y1=TOP, y2=HEIGHT - BOTTOM),
      viewBox=f"0 0 {WIDTH} {HEIGHT}",
      role="img",
      tabindex=0,
      aria_label=f"{chart.title} by step, 0 to {last:,.0f}: {'; '.join(ends)}. "
      "Arrow keys read values.",
      data_left=LEFT,
      data_right=WIDTH - RIGHT,
      data_last=f"{last:.0f}",
    ),
    tag("ul", *items, class_="legend"),
    tag("p", f"at step {last:,.0f}", class_="at"),
    class_="chart",
    data_percent=chart.percent,
  )


def png(
  path: Path,
  title: str,
  notes: Sequence[str],
  charts: Sequence[Chart],
  *,
  columns: int,
  tall: float,
) -> None:
  """Draws charts side by side, each with its last values.

  Args:
    path: The file to write.
    title: What one sees.
    notes: See `style.figure`.
    charts: At least one.
    columns: How many share the width.
    tall: Inches of an axis.
  """
  heads = [_head(chart) for chart in charts]
  left, right = 0.68, 0.16
  if any(len(chart.curves) > 1 for chart in charts):
    right = 1.2 if all(map(_is_short, charts)) else 0.6  # for end labels
  head, foot = 0.1 + 0.19 * max(map(len, heads)), 0.5
  wide = style.WIDTH / columns - left - right
  rows = -(-len(charts) // columns)
  height = style.HEADER + rows * (head + tall + foot)
  with style.figure(path, title, notes, height) as figure:
    for i, (chart, lines) in enumerate(zip(charts, heads, strict=True)):
      row, column = divmod(i, columns)
      bottom = height - style.HEADER - (row + 1) * (head + tall + foot) + foot
      axes = figure.add_axes(
        (
          (left + column * (wide + left + right)) / style.WIDTH,
          bottom / height,
          wide / style.WIDTH,
          tall / height,
        )
      )
      _panel(axes, chart, below=i + columns >= len(charts))
      for j, (text, color, weight) in enumerate(reversed(lines)):
        axes.annotate(
          text,
          (0, 1),
          (0, 6 + 13.7 * j),
          xycoords="axes fraction",
          textcoords="offset points",
          color=color,
          weight=weight,
        )
      if column == 0:
        axes.set_ylabel(chart.unit)


def _head(chart: Chart) -> list[tuple[str, str, str]]:
  """Returns what stands above a chart: texts, their colours and weights."""
  colors = [style.COLORS[curve.color % COLORS] for curve in chart.curves]
  alone = len(chart.curves) == 1
  lines = [(chart.title, colors[0] if alone else style.INK, "bold")]
  if not alone and not _is_short(chart):
    lines += [
      (curve.name, color, "normal")
      for curve, color in zip(chart.curves, colors, strict=True)
    ]
  return lines + ([(chart.note, style.GREY, "normal")] if chart.note else [])


def _is_short(chart: Chart) -> bool:
  """Returns whether names find room beside the ends of their curves."""
  return max(len(curve.name) for curve in chart.curves) <= 6


def _panel(axes: Axes, chart: Chart, *, below: bool) -> None:
  ends: list[tuple[float, str, str]] = []
  for value, color in chart.rules:
    axes.axhline(
      value, color=style.COLORS[color], linewidth=1, linestyle=(0, (1, 2))
    )
  for curve in chart.finite():
    steps_N, values_N = curve.steps_N, curve.values_N
    color = style.COLORS[curve.color % COLORS]
    if not len(steps_N):
      continue
    text = _value(values_N[-1], chart.percent)
    text = f"{curve.name}  {text}" if _is_short(chart) else text
    ends.append((values_N[-1], text, color))
    if chart.smooth and len(steps_N) >= SMOOTH_FROM:
      axes.plot(steps_N, values_N, color=color, linewidth=0.7, alpha=0.35)
      values_N = smoothed(values_N)
    axes.plot(
      steps_N,
      values_N,
      color=color,
      linewidth=1.8,
      marker="o" if len(steps_N) < 30 else "",
      markersize=5,
      markeredgecolor="white",
      markeredgewidth=0.6,
      clip_on=False,
      zorder=3,
    )
  axes.set(xlim=(0, chart.last()), ylim=chart.span())
  axes.xaxis.set_major_locator(_locator())
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k
  axes.yaxis.set_major_locator(_locator())
  if chart.percent:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}%"))
  if below:
    axes.set_xlabel("step")
  if len(ends) > 1:
    style.end_labels(axes, ends)


def smoothed(values_N: np.ndarray) -> np.ndarray:
  """Returns Gaussian means of neighbours, of those that exist near the ends."""
  sigma = len(values_N) / 100
  reach = int(4 * sigma) + 1
  kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
  total = np.convolve(np.ones(len(values_N)), kernel, mode="same")
  return np.convolve(values_N, kernel, mode="same") / total


def _locator() -> MaxNLocator:
  return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])


def _ticks(low: float, high: float) -> list[float]:
  """Returns a few round numbers between two."""
  found = _locator().tick_values(low, high)
  return [float(x) for x in found if low - 1e-9 <= x <= high + 1e-9]


def _value(value: float, percent: bool) -> str:
  if percent:
    return f"{100 * value:.1f}%"
  digits = 3 - math.floor(math.log10(abs(value))) if value else 0
  return f"{value:.{min(max(digits, 0), 6)}f}"
