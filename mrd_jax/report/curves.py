"""Which curves a run has, in what order, and what they are called.

The PNG figures and the HTML page draw the same ones.
"""

from typing import NamedTuple

import numpy as np

from mrd_jax.report.run_folder import RunFolder

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # name: steps, values

SMOOTH_FROM = 60  # points; below, a smoothed line would only hide them
TOP_K = (1, 3, 5)

# The pairs that share their weights in Eq. 9, and what each is about.  The
# last is the "matched" form, in which PI-IT and PT-TI do not exist.
WEIGHT_PAIRS = {
  "Point–point relations learn from": ("PP-II", "PP-TT"),
  "Point–image relations learn from": ("PI-TI", "PI-IT"),
  "Point–text relations learn from": ("PT-IT", "PT-TI"),
}
MATCHED_PAIR = {"Cross-modal relations: the share of": ("PI-TI", "PT-IT")}
MODALITY = {"P": "point", "I": "image", "T": "text"}


class Panel(NamedTuple):
  """A training metric: its name, its title, and what kind of thing it is."""

  name: str
  title: str
  kind: str  # "total", "contrast", "scale", "intra" or "cross"


PANELS = (
  Panel("loss", "total loss", "total"),
  Panel("contrast/image", "contrast, image", "contrast"),
  Panel("contrast/text", "contrast, text", "contrast"),
  Panel("logit_scale", "logit scale", "scale"),
  Panel("intra", "intra, weighted sum", "intra"),
  *(Panel(f"relation/{t}", t, "intra") for t in ("PP-II", "PP-TT")),
  Panel("cross", "cross, weighted sum", "cross"),
  *(Panel(f"relation/{t}", t, "cross") for t in ("PI-TI", "PI-IT")),
  *(Panel(f"relation/{t}", t, "cross") for t in ("PT-IT", "PT-TI")),
)


def loss_panels(series: Series) -> list[Panel]:
  """The panels of which there is something to show."""
  # A variant without intra or cross terms records their sum as zero.
  return [p for p in PANELS if p.name in series and series[p.name][1].any()]


def weight_pairs(series: Series) -> dict[str, tuple[str, str]]:
  """The pairs of terms whose weights were recorded, by their heading."""
  full = "weight/PI-IT" in series
  pairs = WEIGHT_PAIRS if full else WEIGHT_PAIRS | MATCHED_PAIR
  return {
    heading: pair
    for heading, pair in pairs.items()
    if all(f"weight/{term}" in series for term in pair)
  }


def classified_splits(series: Series) -> list[str]:
  """The splits of which there are accuracies, by name."""
  return [
    name.removesuffix("/top1")
    for name in sorted(series)
    if name.endswith("/top1")
  ]


def smoothed(values_N: np.ndarray) -> np.ndarray:
  """Gaussian mean of the neighbours, of those that exist near the ends."""
  sigma = len(values_N) / 100
  reach = int(4 * sigma) + 1
  kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
  total = np.convolve(np.ones(len(values_N)), kernel, mode="same")
  return np.convolve(values_N, kernel, mode="same") / total


def describe_term(term: str, *, full: bool) -> str:
  """ "PI-TI" as "text–image (PI-TI)", or in full with the student's side."""
  student, teacher = (
    "–".join(MODALITY[letter] for letter in side) for side in term.split("-")
  )
  return f"{f'{student} from ' if full else ''}{teacher} ({term})"


def in_nats(run: RunFolder) -> bool:
  """Whether all losses are cross-entropies or divergences."""
  return run.config.get("loss", {}).get("representation") == "similarity"
