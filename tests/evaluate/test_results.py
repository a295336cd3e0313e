"""Protocols and tables of evaluations."""

import json
import re

import numpy as np
import pytest

from mrd_jax.data import dataset
from mrd_jax.errors import BadInput
from mrd_jax.evaluate import published, results
from mrd_jax.evaluate.protocol import Protocol, ProtocolSource


def test_a_protocol_changes_the_clouds_and_nothing_else(data_dir):
  source = dataset.open_split(data_dir, "val")
  plain = source[3]
  points = len(plain["xyz"])
  more = ProtocolSource(source, Protocol(points=500, colour=0.4))
  found = more[3]
  assert len(more) == len(source)
  assert found["xyz"].shape == found["rgb"].shape == (500, 3)
  assert (found["rgb"] == 102).all()  # .4 of 255
  stored = {tuple(p) for p in plain["xyz"].tolist()}
  drawn = [tuple(p) for p in found["xyz"].tolist()]
  assert set(drawn) <= stored and len(set(drawn)) < 500
  # Of a uniform draw with replacement, (1 - 1/n)^500 are never seen.
  unseen = 1 - len(set(drawn)) / len(stored)
  assert unseen == pytest.approx((1 - 1 / points) ** 500, abs=0.06)
  # One shape, one draw, in whichever row it stands.
  twice = ProtocolSource([plain, plain], Protocol(points=500))
  for row in range(2):
    np.testing.assert_array_equal(twice[row]["xyz"], found["xyz"])
  # ModelNet40's grey, 100 of 255, and fewer points than are stored.
  less = ProtocolSource(source, Protocol(points=9, colour=0.392))[3]
  assert (less["rgb"] == 100).all() and len(less["xyz"]) == points
  assert {k for k in plain if not np.array_equal(plain[k], less[k])} <= {"rgb"}


def made_up(shapes: int, suite: str = "modelnet40", metric: str = "top1"):
  return {
    "name": "ours",
    "selected_by": None,
    "suites": {
      suite: {
        "split": "s",
        "data": "d",
        "protocol": {"shapes": shapes},
        "metrics": {metric: 0.5},
      }
    },
  }


def test_published_rows_stand_beside_the_papers_test_set_only():
  table = results.tabulate([made_up(2_468)])
  assert re.search(r"\| ours +\| +50\.0 \|", table)
  assert re.search(r"MRD-L, ensembled \(published\) +\| +87\.3 \|", table)
  assert "comparable" not in table
  table = results.tabulate([made_up(1_000)])
  assert "published" not in table
  assert "the paper's figures are of 2,468 shapes: another test set" in table
  row = made_up(46_205, "retrieval", "text_to_shape_category_r5")
  assert "published" not in results.tabulate([row])  # its texts are others
  protocol = row["suites"]["retrieval"]["protocol"]
  protocol |= {"captions": "most of them", "with_text": 46_204}
  table = results.tabulate([row])  # a smaller gallery is an easier one
  assert "published" not in table
  assert re.search(r"ours +\| +46,204 \| +50\.0 \|", table)
  assert "of 46,205 shapes, all with Cap3D's captions" in table
  protocol["with_text"] = 46_205
  table = results.tabulate([row])
  assert re.search(r"text→3D +\| gallery \| category R@5", table)
  assert re.search(
    r"MRD-B, ensembled \(published\) +\| +46,205 \| +84\.8", table
  )
  table = results.tabulate([made_up(52_470, "relation_gap", "gap_p2t_i2t")])
  assert re.search(r"Base, ShapeNet \(published\) +\| +0\.21", table)


def test_names_of_rows_differ():
  paths = ["a/m", "b/m", "c/m.safetensors", "runs/x y/"]
  assert results.short_names(paths, []) == ["m", "m-2", "m-3", "x_y"]
  earlier = [{"checkpoint": "b/m", "name": "m"}]
  assert results.short_names(paths, earlier) == ["m-2", "m", "m-3", "x_y"]


def test_the_papers_figures_are_those_of_its_tables():
  """A few from each corner, typed from the paper a second time."""
  assert published.TABLE_1["MRD-B", "ensembled"]["modelnet40/top1"] == 88.8
  assert published.TABLE_1["MRD-L", "ensembled"]["scanobjectnn/top5"] == 91.9
  assert published.TABLE_2["MRD-B", "ensembled"] == {
    "lvis/text_to_shape_r1": 20.5,
    "lvis/text_to_shape_r3": 36.0,
    "lvis/text_to_shape_r5": 44.5,
    "lvis/text_to_shape_category_r1": 57.9,
    "lvis/text_to_shape_category_r3": 78.2,
    "lvis/text_to_shape_category_r5": 84.8,
  }
  assert published.TABLE_1["PointCLIP", "images only"]["lvis/top1"] == 1.9
  gap = published.TABLE_6["IR", "ShapeNet"]["train_shapenet_only/gap_p2p_i2i"]
  assert gap == 0.08
  (figure,) = published.TABLE_8["MRD", "PointBERT-38M"].values()
  assert figure == 89.2


def test_the_table_has_all_rows_of_the_papers():
  """24, and none is a slip: a class among more guesses is found more often."""
  assert len(published.TABLE_1) == 24
  for figures in published.TABLE_1.values():
    for split in published.SPLITS:
      top1, top3, top5 = (figures[f"{split}/top{k}"] for k in (1, 3, 5))
      assert 0 < top1 < top3 < top5 < 100
  row = published.TABLE_1["Uni3D-L", "no LVIS"]
  assert list(row.values()) == [
    46.2,
    67.6,
    74.7,
    86.6,
    96.3,
    97.8,
    58.4,
    81.4,
    90.1,
  ]
  assert published.TABLE_1["CG3D", "ShapeNet"]["scanobjectnn/top5"] == 60.8
  assert published.TABLE_1["ULIP+PointBERT", "no LVIS"]["lvis/top1"] == 21.4


def test_the_systems_own_figures_stand_beside_the_papers():
  """With their source; a figure that a README lacks is a blank."""
  row = made_up(2_890, "scanobjectnn")
  row["suites"]["scanobjectnn"]["metrics"]["top3"] = 0.75
  table = results.tabulate([row])
  assert re.search(
    r"\| uni3d-g, as it is published \(Uni3D's README\) +\| +63\.9 \| +\|",
    table,
  )
  assert "OpenShape's README" not in table  # it has none of this set
  table = results.tabulate([made_up(46_205, "objaverse_lvis", "top5")])
  assert re.search(
    r"openshape-spconv, ensembled \(OpenShape's README\) +\| +72\.8 \|", table
  )
  assert re.search(r"SparseConv, ensembled \(published\) +\| +72\.4 \|", table)
  assert "ShapeLLM" not in table  # top-1 alone


def test_the_papers_fine_tuning_stands_beside_its_test_split():
  row = made_up(2_882, "finetune pb", "best_test_epoch_top1")
  assert "published" not in results.tabulate([row])
  row["suites"]["finetune pb"]["split"] = "scanobjectnn_pb_t50_rs_test"
  table = results.tabulate([row])
  assert re.search(r"MRD, PointBERT-38M \(published\) +\| +89\.2 \|", table)


@pytest.mark.parametrize(
  "rows",
  [[1], [{"name": "a"}], [{"name": "a", "checkpoint": 1, "suites": {}}], 3],
)
def test_rows_of_another_form(tmp_path, rows):
  values = {"kind": "evaluation", "rows": rows}
  (tmp_path / "results.json").write_text(json.dumps(values))
  with pytest.raises(BadInput, match=r"results\.json is not of an evaluation"):
    results.read_rows(tmp_path)
