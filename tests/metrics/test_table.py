"""Tables as text."""

from mrd_jax.metrics import table


def test_a_markdown_table_lines_up():
  made = table.render(
    ["name", "top-1", "n"], [["a", "50.0 ± 0.1", ""], ["bcdef", "1", "20"]]
  )
  assert made.splitlines() == [
    "| name  |      top-1 |  n |",
    "|-------|-----------:|---:|",
    "| a     | 50.0 ± 0.1 |    |",
    "| bcdef |          1 | 20 |",
  ]
  assert table.render(["only"], []) == "| only |\n|------|"


def test_columns_line_up_without_spaces_at_their_ends():
  rows = [
    ["rank", "score", "file"],
    ["1", "0.5", "a long name"],
    ["10", "", ""],
  ]
  assert table.columns(rows, ">><") == [
    "rank  score  file",
    "   1    0.5  a long name",
    "  10",
  ]


def test_metrics_are_sorted_into_tables_and_named():
  metrics = ("top1", "top1_std", "gap_p2t_i2t", "text_to_shape_r1")
  names = [f"val/{metric}" for metric in metrics]
  assert list(table.group_metrics(names)) == [
    ("accuracy", ["val/top1"], True),
    ("relation gap", ["val/gap_p2t_i2t"], False),
    ("text→3D", ["val/text_to_shape_r1"], True),
  ]
  for metric, words in (
    ("top1", "top-1"),
    ("class_mean_top3", "class mean top-3"),
    ("gap_p2t_i2t", "P2T/I2T"),
    ("text_to_shape_r5", "R@5"),
    ("image_to_shape_category_r1", "category R@1"),
    ("16_shot_top1", "16 shot top-1"),
  ):
    assert table.label(metric) == words


def test_cells():
  metrics = {"top1": 0.5, "top1_std": 0.0123, "gap": 0.25}
  assert table.cell(metrics, "top1", True) == "50.0 ± 1.2"
  assert table.cell(metrics, "gap", False) == "0.250"
  assert table.cell(metrics, "top3", True) == ""
  assert table.published_cell({"top1": 46.8}, "top1", True) == "46.8"
  assert table.published_cell({"gap": 0.2}, "gap", False) == "0.20"
  assert table.published_cell({}, "top1", True) == ""
