"""Holds published figures, in the names of our metrics, in percent.

Of the paper its Tables 1, 2, 6 and 8, those of other systems as it quotes them:
by CLIP ViT-bigG/14 on the published test sets.  What the systems say of
themselves is in their files of `zoo/`.
"""

from collections.abc import Sequence

Table = dict[tuple[str, str], dict[str, float]]

SPLITS = ("lvis", "modelnet40", "scanobjectnn")
PB_T50_RS = "scanobjectnn_pb_t50_rs_test"
# How many shapes the figures are of.
SHAPES = {
  "lvis": 46_205,
  "modelnet40": 2_468,
  "scanobjectnn": 2_890,
  "train_shapenet_only": 52_470,
  PB_T50_RS: 2_882,
}

_ZERO_SHOT = [f"{split}/top{k}" for split in SPLITS for k in (1, 3, 5)]


def zero_shot(*values: float) -> dict[str, float]:
  """Names top-1, 3, 5 on Objaverse-LVIS, ModelNet40, ScanObjectNN."""
  return dict(zip(_ZERO_SHOT, values, strict=True))


def _table(columns: Sequence[str], lines: str) -> Table:
  """Reads lines of "model | what it was trained on, or its size | figures".

  A figure that was not published is a "-".
  """
  table = {}
  for line in lines.strip().splitlines():
    model, trained_on, figures = (part.strip() for part in line.split("|"))
    table[model, trained_on] = {
      column: float(figure)
      for column, figure in zip(columns, figures.split(), strict=True)
      if figure != "-"
    }
  return table


# The ablations' row without relations: MRD-T on ShapeNet.
BASE = zero_shot(11.0, 20.0, 24.6, 72.2, 85.5, 88.8, 53.4, 73.5, 81.9)

TABLE_1 = _table(
  _ZERO_SHOT,
  """
PointCLIP | images only          |  1.9  4.1  5.8 19.3 28.6 34.8 10.5 20.8 30.6
PointCLIP v2 | images only       |  4.7  9.5 12.9 63.6 77.9 85.0 42.2 63.3 74.5
ReCon | ShapeNet                 |  1.1  2.7  3.7 61.2 73.9 78.1 42.3 62.5 75.6
CG3D | ShapeNet                  |  5.0  9.5 11.6 48.7 60.7 66.5 42.5 57.3 60.8
CLIP2Point | ShapeNet            |  2.7  5.8  7.9 49.5 71.3 81.2 25.5 44.6 59.4
ULIP+PointBERT | ShapeNet        |  6.2 13.6 17.9 60.4 79.0 84.4 51.5 71.1 80.2
OpenShape+SparseConv | ShapeNet  | 11.6 21.8 27.1 72.9 87.2 93.0 52.7 72.7 83.6
OpenShape+PointBERT | ShapeNet   | 10.8 20.2 25.0 70.3 86.9 91.3 51.3 69.4 78.4
MRD-T | ShapeNet                 | 11.8 21.2 25.8 74.2 88.3 90.9 55.7 75.5 83.0
MRD-S | ShapeNet                 | 13.3 23.8 29.2 74.2 88.2 92.5 52.1 73.8 81.2
ULIP+PointBERT | no LVIS         | 21.4 38.1 46.0 71.4 84.4 89.2 46.0 66.1 76.4
OpenShape+SparseConv | no LVIS   | 37.0 58.4 66.9 82.6 95.0 97.5 54.9 76.8 87.0
OpenShape+PointBERT | no LVIS    | 39.1 60.8 68.9 85.3 96.2 97.4 47.2 72.4 84.7
Uni3D-B | no LVIS                | 45.9 67.4 74.8 86.1 97.4 98.7 61.7 82.0 89.5
Uni3D-L | no LVIS                | 46.2 67.6 74.7 86.6 96.3 97.8 58.4 81.4 90.1
MRD-S | no LVIS                  | 45.2 67.2 74.7 88.5 98.2 99.1 63.0 84.2 91.9
MRD-M | no LVIS                  | 45.9 67.8 75.1 87.8 96.5 98.0 62.3 82.4 89.9
ULIP+PointBERT | ensembled       | 26.8 44.8 52.6 75.1 88.1 93.2 51.6 72.5 82.3
OpenShape+SparseConv | ensembled | 43.4 64.8 72.4 83.4 95.6 97.8 56.7 78.9 88.6
OpenShape+PointBERT | ensembled  | 46.8 69.1 77.0 84.4 96.5 98.0 52.2 79.7 88.7
Uni3D-B | ensembled              | 51.7 74.0 80.8 86.3 96.5 97.9 63.8 82.7 90.2
Uni3D-L | ensembled              | 53.1 75.0 81.5 86.3 96.8 98.3 58.2 81.8 89.4
MRD-B | ensembled                | 53.2 75.4 82.1 88.8 97.6 98.5 63.7 84.0 91.5
MRD-L | ensembled                | 53.6 75.7 82.4 87.3 97.4 98.8 64.1 85.7 91.9
""",
)

# Table 2: Cap3D's captions of Objaverse-LVIS, text to 3D as its section 4.3
# has it; its appendix B has 3D to text.
TABLE_2 = _table(
  [
    f"lvis/text_to_shape_{kind}r{k}"
    for kind in ("", "category_")
    for k in (1, 3, 5)
  ],
  """
OpenShape | ensembled | 15.4 28.9 36.8 49.6 71.1 78.8
Uni3D-B   | ensembled | 18.9 33.8 42.2 55.9 76.4 83.4
MRD-B     | ensembled | 20.5 36.0 44.5 57.9 78.2 84.8
""",
)

# Table 6: mean absolute error between similarity matrices on ShapeNet
# (means, not percent).
TABLE_6 = _table(
  [
    f"train_shapenet_only/gap_{pair}"
    for pair in ("p2p_i2i", "p2p_t2t", "p2t_i2t", "p2i_t2i")
  ],
  """
Base     | ShapeNet | 0.36 0.20 0.21 0.17
IR       | ShapeNet | 0.08 0.24 0.21 0.18
CR       | ShapeNet | 0.37 0.20 0.19 0.16
IR+CR    | ShapeNet | 0.20 0.13 0.20 0.16
IR+CR+DD | ShapeNet | 0.15 0.14 0.20 0.16
""",
)

# Table 8: accuracy after fine-tuning ("same protocol as ULIP", which is
# ScanObjectNN's hardest split, PB_T50_RS, by the best epoch on its test set).
TABLE_8 = _table(
  [f"{PB_T50_RS}/best_test_epoch_top1"],
  """
Point-BERT   | PointBERT-22M | 83.1
ULIP         | PointBERT-22M | 86.4
MRD          | PointBERT-22M | 89.6
from scratch | PointBERT-38M | 82.5
OpenShape    | PointBERT-38M | 85.3
MRD          | PointBERT-38M | 89.2
""",
)
