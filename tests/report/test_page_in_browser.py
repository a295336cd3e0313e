"""The page in a browser: what it says, and how it behaves."""

import json

import numpy as np
from report_runs import EVIL, SHAPES, make_run

from mrd_jax.data import dataset
from mrd_jax.encoder.embed_split import unit
from mrd_jax.report import confusion
from mrd_jax.report.__main__ import main
from mrd_jax.report.page import write_page
from mrd_jax.report.run_folder import read_folder, read_run

CELLS = """
const tables = {};
for (const box of document.querySelectorAll('#results .scroll')) {
  tables[box.ariaLabel] = [...box.querySelectorAll('tbody tr')].map((row) => [
    row.querySelector('th').firstChild.textContent,
    ...[...row.querySelectorAll('td')].map((cell) => cell.textContent)]);
}
return tables;
"""


def test_tables_hold_the_numbers_of_the_files(opened):
  assert opened.execute_script(CELLS) == {
    "Split “val”: accuracy (%)": [
      ["base", "8.1", "50.0 best", "60.0 best", "70.0 best"],
      ["mrd", "18.1 best", "40.0", "60.0 best", "70.0 best"],
    ],
    "Split “val”: text→3D (%)": [["base", "25.0 best"], ["mrd", "25.0 best"]],
    "Split “val”: relation gap": [["base", "0.200 best"], ["mrd", "0.300"]],
  }
  text = opened.find_element("id", "results").text
  assert "mrd is the checkpoint with the best val/top1" in text
  cards = [card.text for card in opened.find_elements("css selector", ".card")]
  assert "step 80, the last checkpoint" in cards[0]
  assert "step 80, the best checkpoint by val/top1" in cards[1]
  assert all("synthetic" in card for card in cards)  # the teacher


def test_differences_of_the_configurations(opened):
  rows = opened.execute_script(
    "return [...document.querySelectorAll('#diff tbody tr')].map((row) => "
    "[...row.children].map((cell) => cell.textContent))"
  )
  assert rows == [["seed", "0", "1"], ["loss.intra", "true", "false"]]
  # The whole ones are there, folded, and as they are in the file.
  whole = opened.execute_script(
    "return [...document.querySelectorAll('#configuration details tr')]"
    ".map((row) => row.textContent)"
  )
  assert f"data.made_from{EVIL}" in whole


def test_curves(opened):
  found = opened.execute_script("""
    const found = {};
    for (const chart of document.querySelectorAll('.chart')) {
      const title = chart.querySelector('h4').textContent;
      found[title] = [...chart.querySelectorAll('.curve')].map(
        (curve, i) => [
          curve.getBBox().width > 200,
          curve.dataset.values.split(',').map(Number),
          chart.querySelectorAll('.legend b')[i].textContent]);
    }
    return found;
  """)
  assert len(found) == 4 + 6 + 3 + 3  # terms, relations, weights, top-1/3/5
  assert {len(curves) for curves in found.values()} == {2}
  assert all(curve[0] for curves in found.values() for curve in curves)
  _, values, last = found["total loss"][1]
  np.testing.assert_allclose(values, 10 / np.arange(1, 81), rtol=1e-4)
  assert last == "0.1250"
  title = "Point–point relations learn from image–image (PP-II)"
  assert found[title][0][2] == "0.5800"
  assert found["split “val”, top-3"][0][2] == "24.0%"


def test_chart_reads_values_by_keyboard(opened):
  from selenium.webdriver.common.keys import Keys

  chart = opened.find_element("css selector", ".chart")
  svg = chart.find_element("css selector", "svg")
  svg.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
  assert chart.find_element("css selector", ".at").text == "at step 79"
  legend = [b.text for b in chart.find_elements("css selector", ".legend b")]
  np.testing.assert_allclose(
    [float(x) for x in legend], [9 / 79, 10 / 79], 1e-3
  )


def test_confusion_is_that_of_the_embeddings(opened, data, runs):
  sums = opened.execute_script("""
    return [...document.querySelectorAll('.matrix')].map((table) => [
      [...table.querySelectorAll('tbody th')].map((cell) => cell.textContent),
      [...table.querySelectorAll('tbody tr')].map((row) =>
        [...row.querySelectorAll('td')].map((cell) => +cell.textContent))]);
  """)
  assert len(sums) == 2
  source = dataset.open_split(data, "val")
  names = read_run(runs[0]).meta.class_names["val"]
  with np.load(runs[0] / "embeddings" / "val.npz") as arrays:
    point, label = arrays["point"].astype(np.float64), arrays["label"]
  features = unit(dataset.class_features(data, "val").astype(np.float64))
  predicted = (unit(point) @ features.T).argmax(axis=1)
  assert [source[i]["label"] for i in range(SHAPES)] == label.tolist()
  titles, rows = sums[0]
  shown = [names.index(title) for title in titles]
  assert len(shown) == confusion.MOST_CLASSES
  for true, row in zip(shown, rows, strict=True):
    expected = [int((predicted[label == true] == c).sum()) for c in shown]
    rest = int((label == true).sum()) - sum(expected)
    assert row == [*expected, rest]
  right = int((predicted == label).sum())
  note = opened.find_element("css selector", ".confusion .note").text
  assert note.startswith(f"{right} of {SHAPES} shapes right")


def test_hostile_texts_stay_texts(opened):
  assert opened.title == "2 side by side · report"
  assert not opened.find_elements("css selector", "img")
  count = opened.execute_script(
    "return [...document.querySelectorAll('th, option')].filter("
    "(cell) => cell.textContent === arguments[0]).length",
    EVIL,
  )
  assert count >= 2  # in the map's list at least
  assert not opened.get_log("browser")  # no error, no blocked resource
  loaded = "return performance.getEntriesByType('resource').length"
  assert opened.execute_script(loaded) == 0


def test_one_run(browser, runs, tmp_path):
  path = tmp_path / "page.html"
  assert write_page([read_folder(runs[0])], path) == []
  browser.get(path.as_uri())
  # Both weights of a pair, and top-1/3/5, have a curve of their own.
  counts = browser.execute_script(
    "return ['weights', 'zero-shot'].map((id) => [...document"
    ".getElementById(id).querySelectorAll('.chart')].map((chart) => "
    "chart.querySelectorAll('.curve').length))"
  )
  assert counts == [[2, 2, 2], [3]]
  assert not browser.find_elements("id", "diff")
  assert not browser.find_elements("css selector", ".best")


def test_hover_beyond_the_end_of_a_curve(browser, data, tmp_path):
  folders = [make_run(tmp_path / str(n), data, steps=n) for n in (80, 60)]
  path = tmp_path / "page.html"
  write_page([read_folder(folder) for folder in folders], path)
  browser.get(path.as_uri())
  found = browser.execute_script("""
    const chart = document.querySelector('.chart');
    const svg = chart.querySelector('svg');
    const read = () => [...chart.querySelectorAll('.legend b')].map(
      (cell) => cell.textContent);
    const seen = [read()];
    svg.focus();
    for (let i = 0; i < 21; i++) {
      svg.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}));
      if (i == 0 || i == 19 || i == 20) seen.push(read());
    }
    svg.blur();
    return [...seen, read()];
  """)
  rest = ["0.1125", "0.1500 (step 60)"]
  assert found[:2] == [rest, ["0.1125", "–"]]
  assert found[2] == ["0.1475", "–"]  # step 61
  assert found[3:] == [["0.15", "0.15"], rest]


def test_evaluations(browser, runs, tmp_path):
  origin = {"step": 1200, "rule": "best", "selected_by": "val/top1"}
  published = {"name": "MRD-T", "metrics": {"top1": 74.2}}
  for name, top1 in (("a", 0.8421), ("b", 0.7)):
    (tmp_path / name).mkdir()
    suites = {
      suite: {"split": "modelnet40", "metrics": metrics}
      for suite, metrics in (
        ("modelnet40", {"top1": top1, "top3": 0.9}),
        ("few_shot", {"shots1": 0.5, "shots1_std": 0.012}),
      )
    }
    row = {"name": EVIL, "suites": suites} | origin
    results = {"kind": "evaluation", "rows": [row]}
    results["published"] = {"modelnet40": [published]}
    (tmp_path / name / "results.json").write_text(json.dumps(results))
  output = tmp_path / "page.html"
  folders = [str(tmp_path / "a"), str(runs[0]), str(tmp_path / "b")]
  assert main([*folders, "--output", str(output)]) == 0
  browser.get(output.as_uri())
  tables = browser.execute_script(CELLS)
  assert tables["Evaluation “modelnet40”: accuracy (%)"] == [
    [EVIL, "84.2 best", "90.0 best"],
    [EVIL, "70.0", "90.0 best"],
    ["MRD-T", "74.2", "—"],
  ]
  few_shot = tables["Evaluation “few_shot”: accuracy (%)"]
  assert few_shot[0] == [EVIL, "50.0 ± 1.2 best"]
  small = browser.find_elements("css selector", "tbody th small")
  text = "step 1,200, the best checkpoint by val/top1, split modelnet40"
  assert text in [element.text for element in small]
  # An evaluation alone has its tables and nothing else.
  assert main([str(tmp_path / "a")]) == 0
  browser.get((tmp_path / "a" / "report.html").as_uri())
  sections = browser.find_elements("css selector", "main > section")
  assert [section.get_attribute("id") for section in sections] == ["results"]
