"""Sets the look that all figures share: colours, type, header, saving."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrd_jax.io.files import replacing

# Okabe and Ito's colours, told apart with every kind of colour vision.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, GREY, RULE = "#22262b", "#667080", "#e3e6ea"
# Of a chart's curves, in the order of the classes c0 .. c7 of page.css.
COLORS = (
  BLUE,
  VERMILION,
  GREEN,
  "#CC79A7",
  "#E69F00",
  "#5b4fb3",
  "#a02c2c",
  INK,
)

WIDTH = 10.0  # inches
DPI = 160
MARGIN = 0.3  # inches around everything
HEADER = 0.95  # inches for the title and the line below it

_STYLE: Any = {
  "font.family": ["DejaVu Sans"],
  "font.size": 9,
  "text.color": INK,
  "text.parse_math": False,  # a "$" in a caption or a path is a dollar
  "axes.edgecolor": GREY,
  "axes.labelcolor": GREY,
  "axes.labelsize": 9,
  "axes.linewidth": 0.8,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "axes.titlesize": 10,
  "axes.titlelocation": "left",
  "grid.color": RULE,
  "grid.linewidth": 0.8,
  "xtick.color": GREY,
  "ytick.color": GREY,
  "xtick.labelsize": 8.5,
  "ytick.labelsize": 8.5,
  "xtick.major.size": 3,
  "ytick.major.size": 0,
  "legend.frameon": False,
  "lines.solid_capstyle": "round",
}


@contextmanager
def figure(
  path: Path, title: str, notes: Sequence[str], height: float
) -> Iterator[Figure]:
  """Makes a figure with its header, and saves it as PNG on leaving.

  Args:
    path: The file to write.
    title: What one sees.
    notes: Which data and teacher, and what to know; a note a phrase, for
      two lines in all.
    height: Of the figure, in inches; the width is `WIDTH`.
  """
  lines: list[str] = []
  for note in notes:  # none is broken in two
    if lines and len(lines[-1]) + len(note) + 5 <= 140:
      lines[-1] += f"  ·  {note}"
    else:
      lines.append(note)
  with matplotlib.rc_context(_STYLE):
    drawn = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    left = MARGIN / WIDTH
    drawn.text(
      left, 1 - 0.2 / height, title, va="top", fontsize=14, weight="bold"
    )
    drawn.text(
      left,
      1 - 0.52 / height,
      "\n".join(lines),
      va="top",
      fontsize=9,
      color=GREY,
      linespacing=1.4,
    )
    yield drawn
    path.parent.mkdir(exist_ok=True)
    # No version or date inside: the same run gives the same file.
    with replacing(path) as temporary, warnings.catch_warnings():
      # It prints the letter, which may be a command to the terminal.
      warnings.filterwarnings("ignore", "Glyph .* missing from font")
      drawn.savefig(temporary, format="png", metadata={"Software": None})


def end_labels(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
  """Writes texts right of the axes, kept apart.

  Args:
    axes: The axes.
    ends: The height, the text and the colour of each.
  """
  low, high = axes.get_ylim()
  # A line of text, 0.16 inches, in data units.
  gap = 0.16 * DPI / axes.get_window_extent().height * (high - low)
  heights = _spread(np.array([end[0] for end in ends], float), gap, high)
  for y, (_, text, color) in zip(heights, ends, strict=True):
    axes.annotate(
      text,
      (1, y),
      (5, 0),
      xycoords=("axes fraction", "data"),
      textcoords="offset points",
      va="center",
      color=color,
      weight="bold",
      annotation_clip=False,
    )


def _spread(values_N: np.ndarray, gap: float, top: float) -> np.ndarray:
  """Moves values apart to `gap` at least, none above `top`."""
  order = np.argsort(values_N, kind="stable")
  y = values_N[order].copy()
  for i in range(1, len(y)):
    y[i] = max(y[i], y[i - 1] + gap)
  y -= (y - values_N[order]).mean()
  y[-1] = min(y[-1], top)
  for i in range(len(y) - 2, -1, -1):
    y[i] = min(y[i], y[i + 1] - gap)
  result = np.empty_like(y)
  result[order] = y
  return result
