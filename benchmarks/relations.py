"""What a teacher's relations hold: how sharp, how consistent, how informative.

  python -m benchmarks.relations --data data/openshape-mini --batch 128 \\
    --scales 5,14.28,30 --labelled lvis [--run runs/mini]

For random batches of the training split, each shape with one random image and
one random text as training draws them, and for every scale of Eq. 5-6:

  perplexity   the effective number of shapes that a row speaks of
  own          the mass that a row of a cross-modal relation gives its own pair
  own first    the share of rows whose own pair is the largest
  conflict     Jeffrey divergence between the two teachers of one student
               relation, which it cannot meet both: II and TT, TI and IT

and on a labelled split how well each relation tells shapes of one class from
others: the area under the ROC curve over all pairs, for the teachers and, with
--run, for that run's embeddings (its `embeddings/SPLIT.npz`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from mrd_jax.data import dataset
from mrd_jax.metrics.embeddings import unit
from mrd_jax.metrics.table import render


def draw_features(
  data: Path, split: str, seed: int | None, *, labelled: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """One image and one text of every shape that has both.

  Args:
    data: A prepared dataset.
    split: Its split.
    seed: Of the draw; None takes the first of each.
    labelled: Whether shapes without a label are left out too.

  Returns:
    (N, D) unit image features, (N, D) unit text features, (N,) labels, and
    (N,) which records these are.
  """
  rng = np.random.default_rng(seed)
  image, text, label, rows = [], [], [], []
  for row, record in enumerate(dataset.open_split(data, split)):
    counts = len(record["image_kind"]), len(record["text_kind"])
    if all(counts) and (record["label"] >= 0 or not labelled):
      i, j = (0, 0) if seed is None else map(rng.integers, counts)
      image.append(record["image_feat"][i])
      text.append(record["text_feat"][j])
      label.append(record["label"])
      rows.append(row)
  return (
    unit(np.array(image, np.float64)),
    unit(np.array(text, np.float64)),
    np.array(label),
    np.array(rows),
  )


def log_rows(
  query_BD: np.ndarray, key_BD: np.ndarray, scale: float, own: bool
) -> np.ndarray:
  """(B, B) log of Eq. 5 (without the diagonal) or Eq. 6 (`own`)."""
  z_BB = scale * query_BD @ key_BD.T
  if not own:
    np.fill_diagonal(z_BB, -np.inf)
  z_BB -= z_BB.max(axis=1, keepdims=True)
  return z_BB - np.log(np.exp(z_BB).sum(axis=1, keepdims=True))


def jeffrey(p_BB: np.ndarray, q_BB: np.ndarray) -> float:
  """Eq. 11 of two relations given by their logarithms."""
  defined_BB = np.isfinite(p_BB) & np.isfinite(q_BB)
  with np.errstate(invalid="ignore"):
    terms_BB = (np.exp(p_BB) - np.exp(q_BB)) * (p_BB - q_BB)
  return float(np.where(defined_BB, terms_BB, 0).sum(axis=1).mean())


def relation_rows(
  image_ND: np.ndarray, text_ND: np.ndarray, batch: int, scale: float, seed: int
) -> list[list[str]]:
  """A table row for each relation, means over eight batches."""
  rng = np.random.default_rng(seed)
  found: dict[str, list[tuple[float, ...]]] = {}
  for _ in range(8):
    chosen = rng.permutation(len(image_ND))[:batch]
    features = {"I": image_ND[chosen], "T": text_ND[chosen]}
    logs = {
      a + b: log_rows(features[a], features[b], scale, own=a != b)
      for a, b in ("II", "TT", "TI", "IT")
    }
    for name, log_BB in logs.items():
      p_BB = np.exp(log_BB)
      entropy_B = -(p_BB * np.where(p_BB > 0, log_BB, 0)).sum(axis=1)
      first_B = log_BB.argmax(axis=1) == np.arange(len(log_BB))
      other = {"II": "TT", "TT": "II", "TI": "IT", "IT": "TI"}[name]
      found.setdefault(name, []).append(
        (
          float(np.exp(entropy_B).mean()),
          float(np.diagonal(p_BB).mean()),
          float(first_B.mean()),
          jeffrey(log_BB, logs[other]),
        )
      )
  rows = []
  for name, values in found.items():
    perplexity, own, first, conflict = np.mean(values, axis=0)
    cross = name[0] != name[1]
    rows.append(
      [
        name,
        f"{scale:g}",
        f"{perplexity:.1f}",
        f"{own:.0%}" if cross else "",
        f"{first:.0%}" if cross else "",
        f"{conflict:.2f}",
      ]
    )
  return rows


def class_auc(similarity_NN: np.ndarray, label_N: np.ndarray) -> float:
  """How often a pair of one class is more similar than a pair of two."""
  pairs = np.triu_indices(len(label_N), k=1)
  same = (label_N[:, None] == label_N)[pairs]
  both = (similarity_NN + similarity_NN.T)[pairs]
  return float(roc_auc_score(same, both))


def tables(args: argparse.Namespace) -> str:
  """Both tables, in Markdown."""
  image_ND, text_ND, _, _ = draw_features(args.data, args.split, args.seed)
  rows = []
  for scale in args.scales:
    rows += relation_rows(image_ND, text_ND, args.batch, scale, args.seed)
  header = ["relation", "scale", "perplexity", "own", "own first", "conflict"]
  text = [f"{len(image_ND):,} shapes, batches of {args.batch}"]
  text += ["", render(header, rows), ""]
  if args.labelled:
    image_ND, text_ND, label_N, rows_N = draw_features(
      args.data, args.labelled, None, labelled=True
    )
    aucs = {
      "II": class_auc(image_ND @ image_ND.T, label_N),
      "TT": class_auc(text_ND @ text_ND.T, label_N),
      "IT": class_auc(image_ND @ text_ND.T, label_N),
    }
    for run in args.run:
      with np.load(run / "embeddings" / f"{args.labelled}.npz") as arrays:
        point_ND = unit(arrays["point"][rows_N].astype(np.float64))
      aucs[f"PP, {run}"] = class_auc(point_ND @ point_ND.T, label_N)
    rows = [[name, f"{auc:.3f}"] for name, auc in aucs.items()]
    text += [render([f"{args.labelled}: same class", "AUC"], rows), ""]
  return "\n".join(text)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.relations",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--data", type=Path, required=True)
  parser.add_argument("--split", default="train")
  parser.add_argument("--labelled", default="")
  parser.add_argument("--run", type=Path, action="append", default=[])
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--scales",
    type=lambda text: [float(part) for part in text.split(",")],
    default=[5.0, 14.28, 30.0],
  )
  return parser.parse_args(argv)


if __name__ == "__main__":
  print(tables(parse()))
