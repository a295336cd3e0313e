"""The HTML page: what it says, and how it behaves in a browser."""

import base64
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from mrd_jax.data import dataset
from mrd_jax.draw.chart import Chart, Curve, svg
from mrd_jax.draw.markup import json_block, tag
from mrd_jax.errors import BadInput
from mrd_jax.metrics.embeddings import unit
from mrd_jax.prepare import procedural
from mrd_jax.report import confusion, embedding_map, gallery
from mrd_jax.report.__main__ import main
from mrd_jax.report.configuration import flatten
from mrd_jax.report.page import short_names, write_page
from mrd_jax.report.results import run_results
from mrd_jax.report.retrieval import QUERIES, Retrieval, choose_queries
from mrd_jax.report.run_folder import read_folder, read_run

DIM = 16
SHAPES = 60
EVIL = "</script><img src=x onerror=\"document.title='owned'\">&'"
TERMS = ("PP-II", "PP-TT", "PI-TI", "PI-IT", "PT-IT", "PT-TI")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A dataset in which a class name and a text would like to be HTML."""
  directory = tmp_path_factory.mktemp("data") / "procedural"
  procedural.generate(
    directory, train=1, val=SHAPES, num_points=300, num_views=1, embed_dim=DIM
  )
  path = directory / "metadata.json"
  metadata = json.loads(path.read_text())
  label = int(dataset.open_split(directory, "val")[0]["label"])
  metadata["class_names"]["val"][label] = EVIL
  path.write_text(json.dumps(metadata))
  return directory


def make_run(workdir, data, *, seed=0, steps=80, images=True, **changes):
  """A finished run's folder, as training/set_up.py leaves it."""
  (workdir / "embeddings").mkdir(parents=True)
  config = {
    "seed": seed,
    "data": {"dir": str(data), "made_from": EVIL},
    "loss": {"representation": "similarity", "intra": True} | changes,
    "eval": {"zero_shot": ["val"], "retrieval": ["val"]},
  }
  (workdir / "config.json").write_text(json.dumps(config))
  lines = []
  for step in range(1, steps + 1):
    values = {"loss": (9 + seed) / step, "contrast/image": 1 / step}
    values |= {"contrast/text": 2 / step, "intra": 0.5, "cross": 0.0}
    values |= {f"relation/{term}": 2 / step for term in TERMS}
    for first, second in zip(TERMS[::2], TERMS[1::2], strict=True):
      values[f"weight/{first}"] = 0.5 + 0.001 * step
      values[f"weight/{second}"] = 0.5 - 0.001 * step
    lines.append({"step": step, "kind": "train", "time": 0.0} | values)
    if step % 20 == 0:
      scores = {f"val/top{k}": k * step / 1000 for k in (1, 3, 5)}
      lines.append({"step": step, "kind": "eval", "time": 0.0} | scores)
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)
  results = {
    "step": steps,
    "checkpoint": "best" if seed else "last",
    "selected_by": "val/top1" if seed else None,
    "chance_top1": {"val": 1 / 54},
    "metrics": {
      "val/top1": 0.08123 + 0.1 * seed,
      "val/class_mean": 0.5 - 0.1 * seed,
      "val/class_mean_top3": 0.6,
      "val/class_mean_top5": 0.7,
      "val/text_to_shape_r1": 0.25,
      "val/gap_p2p_i2i": 0.2 + 0.1 * seed,
    },
  }
  (workdir / "results.json").write_text(json.dumps(results))
  source = dataset.open_split(data, "val")
  label = np.array([source[i]["label"] for i in range(SHAPES)])
  rng = np.random.default_rng(seed)
  features = dataset.class_features(data, "val")[label]
  arrays = {
    "point": features + 0.3 * rng.normal(size=features.shape),
    "text": np.zeros_like(features),
    "image": np.stack([source[i]["image_feat"][0] for i in range(SHAPES)]),
  }
  has_text = np.array([len(source[i]["texts"]) > 0 for i in range(SHAPES)])
  for i in np.flatnonzero(has_text).tolist():
    arrays["text"][i] = source[i]["text_feat"][0]
  arrays = {key: unit(x).astype(np.float16) for key, x in arrays.items()}
  arrays |= {"has_text": has_text, "label": label}
  arrays["has_image"] = np.ones(SHAPES, bool)
  if not images:
    del arrays["image"], arrays["has_image"]
  np.savez(workdir / "embeddings" / "val.npz", **arrays)
  return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
  root = tmp_path_factory.mktemp("runs")
  return [
    make_run(root / "base", data),
    make_run(root / "mrd", data, seed=1, intra=False),
  ]


class HostileTexts:
  """A split whose texts would like to be HTML."""

  def __init__(self, source):
    self._source = source

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    record = self._source[index]
    return record | {"texts": [f"{text} {EVIL}" for text in record["texts"]]}


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
  """Two runs side by side."""
  path = tmp_path_factory.mktemp("page") / "report.html"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      dataset,
      "open_split",
      lambda *args, opened=dataset.open_split: HostileTexts(opened(*args)),
    )
    assert write_page([read_folder(run) for run in runs], path) == []
  return path


class Elements(HTMLParser):
  """All start tags with their attributes, and all text, of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts = [], []
    self.feed(text)

  def handle_starttag(self, name, attributes):
    self.tags.append((name, dict(attributes)))

  def handle_data(self, text):
    self.texts.append(text)


# Of files, without a browser.


def test_one_file_without_any_address(page):
  text = page.read_text()
  parsed = Elements(text)
  for name, attributes in parsed.tags:
    assert name not in ("link", "img", "iframe", "base", "object", "embed")
    assert not attributes.keys() & {"src", "action", "srcset", "poster"}
    assert attributes.get("href", "#").startswith("#")
    assert not [key for key in attributes if key.startswith("on")]
  assert not re.search(r"url\(|@import|https?://", text)
  [policy] = [a["content"] for n, a in parsed.tags if "http-equiv" in a]
  assert "default-src 'none'" in policy and "sha256-" in policy


def test_markup_escapes_all_but_its_own():
  made = tag(
    "p", EVIL, tag("b", "x<y"), None, title='"<', data_n=3, hidden=True
  )
  assert made == (
    '<p title="&quot;&lt;" data-n="3" hidden>&lt;/script&gt;&lt;img src=x '
    "onerror=&quot;document.title=&#x27;owned&#x27;&quot;&gt;&amp;&#x27;"
    "<b>x&lt;y</b></p>"
  )
  block = json_block("d", [EVIL])
  assert block.count("<") == 2 and "&" not in block
  assert json.loads(block[block.index(">") + 1 : -len("</script>")]) == [EVIL]


def test_names_are_as_long_as_needed(tmp_path):
  folders = [tmp_path / "a" / "s0", tmp_path / "b" / "s0", tmp_path / "c"]
  assert short_names(folders[1:]) == ["s0", "c"]
  assert short_names(folders[:2]) == ["a/s0", "b/s0"]
  with pytest.raises(BadInput, match="named twice"):
    short_names([tmp_path, tmp_path / "a" / ".."])


def test_config_is_flattened():
  nested = {"a": {"b": 1, "c": {"d": []}}, "e": {}, "f": "x"}
  assert dict(flatten(nested)) == {"a.b": 1, "a.c.d": [], "e": {}, "f": "x"}


def test_clouds_stay_within_their_budget(data, monkeypatch):
  ready = Retrieval(
    read_run_of(data), "val", None, dataset.open_split(data, "val")
  )
  clouds = gallery.Clouds()
  assert [clouds.number(ready, shape) for shape in (4, 2, 4)] == [0, 1, 0]
  content = base64.b64decode(clouds.encode()[0])
  assert len(content) == 300 * gallery.POINT_BYTES
  record = ready.source[4]
  xyz = np.frombuffer(content[: 300 * 6], "<i2").reshape(-1, 3) / 32767
  true = record["xyz"].astype(float)
  true -= (true.min(axis=0) + true.max(axis=0)) / 2
  true /= np.linalg.norm(true, axis=1).max()
  np.testing.assert_allclose(xyz, true, atol=1e-4)
  rgb = np.frombuffer(content[300 * 6 :], np.uint8).reshape(-1, 3)
  np.testing.assert_array_equal(rgb, record["rgb"])
  monkeypatch.setattr(gallery, "MOST_BYTES", 900)
  assert sum(len(base64.b64decode(c)) for c in clouds.encode()) == 900


def read_run_of(data):
  class Run:
    data_dir = data

  return Run


def test_map_is_the_same_every_time_and_keeps_neighbours():
  rng = np.random.default_rng(0)
  centres = np.eye(3, 8)[np.arange(60) % 3]
  points = (centres + 0.02 * rng.normal(size=(60, 8))).astype(np.float32)
  placed = embedding_map.flat_map(points)
  np.testing.assert_array_equal(placed, embedding_map.flat_map(points))
  assert (placed >= 0).all() and (placed <= [640, 480]).all()
  distance = np.linalg.norm(placed[:, None] - placed[None], axis=-1)
  np.fill_diagonal(distance, np.inf)
  assert (distance.argmin(axis=1) % 3 == np.arange(60) % 3).all()


def test_confusion_refuses_a_dataset_that_does_not_fit(runs, tmp_path):
  run = read_run(runs[0])
  assert run.meta
  meta = dataclasses.replace(run.meta, class_names={"val": ["one"]})
  with pytest.raises(BadInput, match="names 1 classes and has features of 54"):
    confusion.confusion_block("x", dataclasses.replace(run, meta=meta), "val")
  copy = tmp_path / "run"
  shutil.copytree(runs[0], copy)
  path = copy / "embeddings" / "val.npz"
  with np.load(path) as arrays:
    changed = dict(arrays) | {"point": arrays["point"][:, 1:]}
  np.savez(path, **changed)
  with pytest.raises(BadInput, match="of another width"):
    confusion.confusion_block("x", read_run(copy), "val")
  changed["label"] = np.full(SHAPES, -1)
  np.savez(path, **changed)
  with pytest.raises(BadInput, match="0 labelled shapes"):
    embedding_map.map_block("x", read_run(copy), "val")


def test_chart_leaves_out_what_is_not_finite():
  steps = np.array([1.0, 2, 3])
  values = np.array([1.0, np.nan, 3.0])
  text = svg(Chart("x", [Curve("a", steps, values, 0)]))
  assert 'data-values="1,3"' in text and "nan" not in text
  text = svg(Chart("x", [Curve("a", steps[:1], values[1:2], 0)]))
  assert 'class="curve' not in text


def test_chart_says_where_a_shorter_curve_ends():
  steps = np.arange(1, 401)
  curves = [
    Curve("long", steps, 1 / steps, 0),
    Curve("short", steps[:200], 2 / steps[:200], 1),
  ]
  text = svg(Chart("x", curves))
  assert "<b>0.002500</b>" in text and "<b>0.01000 (step 200)</b>" in text
  assert "short ends at 0.01000 (step 200)" in text
  assert "step 400)" not in text


def test_an_unfinished_run_is_never_the_best(runs, data, tmp_path):
  better = make_run(tmp_path / "better", data)
  (better / "results.json").unlink()
  lines = (
    (better / "metrics.jsonl")
    .read_text()
    .replace('"val/top1": 0.08', '"val/top1": 0.99')
  )
  (better / "metrics.jsonl").write_text(lines)
  tables = run_results(
    {"a": read_run(runs[0]), "b": read_run(runs[1]), "c": read_run(better)}
  )
  accuracy = tables[0]
  assert 'title="0.99"' in accuracy
  assert re.findall(
    r'class="best"[^>]*data-metric="val/top1"[^>]*title="([^"]*)', accuracy
  ) == ["0.18123"]
  assert "unfinished: the evaluation of step 80" in accuracy


def test_results_of_another_form(runs, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(runs[0], run)
  path = run / "results.json"
  results = json.loads(path.read_text())
  for changes in (
    {"chance_top1": 0.1},
    {"metrics": 1},
    {"best_test_epoch": {}},
    {"best_test_epoch": {"metrics": {}}},
  ):
    path.write_text(json.dumps(results | changes))
    with pytest.raises(BadInput, match="in another form than training writes"):
      read_run(run)
  path.write_text("[]")
  with pytest.raises(BadInput, match="in another form than training writes"):
    read_run(run)


def test_unfinished_run_without_data(runs, tmp_path, capsys):
  run = tmp_path / "run"
  shutil.copytree(runs[0], run)
  (run / "results.json").unlink()
  shutil.rmtree(run / "embeddings")
  config = json.loads((run / "config.json").read_text())
  config["data"]["dir"] = "gone"
  (run / "config.json").write_text(json.dumps(config))
  assert main([str(run)]) == 0
  output = capsys.readouterr()
  assert output.out.split()[-1] == str(run / "report.html")
  text = " ".join(Elements((run / "report.html").read_text()).texts)
  for phrase in ("no results.json", "gone cannot be read", "does not exist"):
    assert phrase in text and phrase in output.err
  assert "8.0" in text  # top-1 of the last evaluation
  # With a config and nothing else there is still the configuration.
  (run / "metrics.jsonl").unlink()
  assert main([str(run)]) == 0
  assert "nothing to draw" in capsys.readouterr().err
  assert "data.made_from" in (run / "report.html").read_text()


def test_refuses_what_is_no_run(runs, tmp_path, capsys):
  assert main([str(runs[0]), str(tmp_path)]) == 2
  assert "config.json does not exist" in capsys.readouterr().err
  assert main([str(runs[0]), str(runs[0])]) == 2
  assert "named twice" in capsys.readouterr().err
  missing = tmp_path / "no" / "page.html"
  assert main([*map(str, runs), "--output", str(missing)]) == 2
  assert "cannot be written" in capsys.readouterr().err
  (tmp_path / "results.json").write_text('{"kind": "evaluation", "rows": [1]}')
  assert main([str(tmp_path)]) == 2
  assert "not what mrd_jax.evaluate writes" in capsys.readouterr().err
  run = tmp_path / "run"
  shutil.copytree(runs[0], run)
  (run / "results.json").write_text("{}")
  assert main([str(run)]) == 2
  assert "has no metrics" in capsys.readouterr().err


def test_older_embeddings_without_images(data, tmp_path):
  run = make_run(tmp_path / "old", data, images=False)
  missing = write_page([read_folder(run)], tmp_path / "a.html")
  assert [s for s in missing if "hold no image features" in s]
  text = (tmp_path / "a.html").read_text()
  assert "Text to shape" in text and "Image to shape," not in text
  write_page([read_folder(run)], tmp_path / "b.html")
  assert (tmp_path / "b.html").read_text() == text


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium")
  chromium = shutil.which("chromium")
  driver = shutil.which("chromedriver")
  if not chromium or not driver:
    pytest.skip("no chromium and chromedriver; Debian: chromium-driver")
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update",
    "disable-sync", "window-size=1280,900", "force-prefers-reduced-motion",
    f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
  ):  # fmt: skip
    options.add_argument(f"--{flag}")
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(executable_path=driver)
  browser = webdriver.Chrome(options=options, service=service)
  yield browser
  browser.quit()


@pytest.fixture
def opened(browser, page):
  browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
  browser.get(page.as_uri())
  return browser


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
    "Split “val”: text→3D (%)": [
      ["base", "25.0 best"],
      ["mrd", "25.0 best"],
    ],
    "Split “val”: relation gap": [
      ["base", "0.200 best"],
      ["mrd", "0.300"],
    ],
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


def test_map_names_classes(opened):
  dots = opened.execute_script(
    "return [...document.querySelectorAll('.map')].map((map) => "
    "[...map.querySelectorAll('.dots')].reduce((count, path) => "
    "count + path.getAttribute('d').split('M').length - 1, 0))"
  )
  assert dots == [SHAPES, SHAPES]
  name = opened.execute_script("""
    const map = document.querySelector('.map');
    map.scrollIntoView();
    const path = map.querySelector('.dots');
    const svg = map.querySelector('svg');
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const [x, y] = path.getAttribute('d').match(/[\\d.]+/g).map(Number);
    svg.dispatchEvent(new PointerEvent('pointermove', {
      clientX: box.left + x * scale, clientY: box.top + y * scale}));
    const tip = map.querySelector('.tip');
    return [tip.hidden, tip.textContent, path.dataset.name];
  """)
  assert name == [False, name[2], name[2]] and name[2]


def drawn(browser, selector):
  """How many of a canvas's pixels are painted."""
  return browser.execute_script(
    "const c = document.querySelector(arguments[0]);"
    "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0;"
    "return n / (c.width * c.height);",
    selector,
  )


def test_gallery_shows_what_is_retrieved(opened, data, runs):
  queries = opened.execute_script("""
    return [...document.querySelectorAll('.query')].map((query) => [
      query.querySelector('.asked').textContent,
      [...query.querySelectorAll('.answer')].map((answer) => [
        answer.querySelector('.rank').lastChild.textContent,
        [...answer.querySelectorAll('.score')].map((c) => c.textContent)])]);
  """)
  assert len(queries) == 2 * QUERIES  # by text, by image
  source = dataset.open_split(data, "val")
  with np.load(runs[1] / "embeddings" / "val.npz") as arrays:
    point, text, label = (
      arrays[key].astype(float) for key in ("point", "text", "label")
    )
    with_text = np.flatnonzero(arrays["has_text"])
  assert len(with_text) < SHAPES
  rows = choose_queries(np.isin(np.arange(SHAPES), with_text), label, 8)
  for row, (asked, answers) in zip(rows, queries[:8], strict=True):
    assert asked == f"“{source[row]['texts'][0]} {EVIL}”"
    scores = unit(point)[with_text] @ unit(text)[row]
    own = scores[with_text == row][0]
    rank, shown = answers[1]
    np.testing.assert_allclose(
      [float(x) for x in shown], sorted(scores, reverse=True)[:5], atol=6e-4
    )
    ahead = int((scores > own + 1e-6).sum())
    assert (
      rank.strip() == f"its own shape ranks {1 + ahead} of {len(with_text)}"
    )
  opened.execute_script("document.querySelector('.tile').scrollIntoView()")
  wait(lambda: drawn(opened, ".tile canvas") > 0.02)


def wait(condition, seconds=5):
  from selenium.webdriver.support.wait import WebDriverWait

  WebDriverWait(None, seconds, 0.05).until(lambda _: condition())


def test_viewer_turns_by_mouse_touch_and_keys(opened):
  from selenium.webdriver import ActionChains
  from selenium.webdriver.common.keys import Keys

  tile = opened.find_element("css selector", ".tile")
  opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", tile)
  tile.send_keys(Keys.ENTER)
  canvas = opened.find_element("css selector", "#viewer canvas")

  def view():
    return [float(x) for x in canvas.get_attribute("data-view").split()]

  assert drawn(opened, "#viewer canvas") > 0.02
  assert opened.switch_to.active_element == canvas
  start = view()
  canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP, "+")
  np.testing.assert_allclose(
    view(), [start[0] + 0.2, start[1] - 0.15, 1.2], atol=2e-3
  )
  canvas.send_keys("0")
  assert view() == start
  ActionChains(opened).drag_and_drop_by_offset(canvas, 50, 20).perform()
  np.testing.assert_allclose(
    view(), [start[0] + 0.5, start[1] + 0.2, 1], atol=0.05
  )
  canvas.send_keys("0")
  box = canvas.rect
  top = opened.execute_script("return scrollY")
  x, y = box["x"] + box["width"] / 2, box["y"] - top + box["height"] / 2

  def touch(kind, *fingers):
    points = [{"x": fx, "y": fy, "id": i} for i, (fx, fy) in enumerate(fingers)]
    event = {"type": kind, "touchPoints": points}
    opened.execute_cdp_cmd("Input.dispatchTouchEvent", event)

  touch("touchStart", (x, y))
  touch("touchMove", (x - 60, y))
  touch("touchEnd")
  np.testing.assert_allclose(view(), [start[0] - 0.6, start[1], 1], atol=0.2)
  yaw = view()[0]
  touch("touchStart", (x - 40, y), (x + 40, y))
  touch("touchMove", (x - 80, y), (x + 80, y))
  touch("touchEnd")
  assert view()[0] == yaw and view()[2] > 1.5
  # Motion is reduced here: it turns by itself only when asked.
  turn = opened.find_element("css selector", "[data-act=turn]")
  assert turn.get_attribute("aria-pressed") == "false"
  turn.click()
  before = view()[0]
  wait(lambda: view()[0] > before)
  canvas.send_keys(Keys.ESCAPE)
  assert not opened.execute_script("return viewer.open")
  assert opened.switch_to.active_element == tile


@pytest.mark.parametrize("dark", [False, True])
def test_phone(opened, dark):
  size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
  opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
  features = [
    {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
  ]
  opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
  opened.refresh()
  widths = "return [document.documentElement.scrollWidth, innerWidth]"
  assert opened.execute_script(widths) == [360, 360]
  colour = "return getComputedStyle(document.body).backgroundColor"
  light, night = "rgb(255, 255, 255)", "rgb(20, 24, 29)"
  assert opened.execute_script(colour) == (night if dark else light)
  toggle = opened.find_element("id", "theme")
  assert toggle.text == ("Light" if dark else "Dark")
  toggle.click()
  assert opened.execute_script(colour) == (light if dark else night)
  # Every table that is wider than the page scrolls in its own box.
  boxes = opened.execute_script(
    "return [...document.querySelectorAll('.scroll')].map((box) => "
    "[box.clientWidth <= 340, box.tabIndex, box.ariaLabel !== null])"
  )
  assert boxes and all(box == [True, 0, True] for box in boxes)


def test_prints_in_light_colours_and_unfolded(opened):
  opened.execute_script("document.documentElement.dataset.theme = 'dark'")
  printed = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
  content = base64.b64decode(printed["data"])
  # Clouds as vectors, two discs a point, would be tens of megabytes.
  assert content.startswith(b"%PDF") and len(content) < 6_000_000
  folded = opened.find_elements("css selector", "details:not([open])")
  assert not folded
  opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
  shown = opened.execute_script(
    "return [getComputedStyle(document.body).backgroundColor, "
    "document.querySelector('nav').checkVisibility()]"
  )
  opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
  assert shown == ["rgb(255, 255, 255)", False]


CONTRAST = """
const context = document.createElement('canvas').getContext('2d');
const parse = (colour) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
};
const luminance = (colour) => colour.slice(0, 3).map((x) => x / 255).map(
  (x) => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4
).reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
let worst = [99, ''];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !element.checkVisibility()
      || element.closest('script, svg, .tip')) continue;
  let box = element;
  while (box && parse(getComputedStyle(box).backgroundColor)[3] < 255) {
    box = box.parentElement;
  }
  const pair = [getComputedStyle(element).color,
    box ? getComputedStyle(box).backgroundColor : 'white'];
  const [a, b] = pair.map((c) => luminance(parse(c))).sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 200)];
}
return worst;
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_and_labels(opened, theme):
  opened.execute_script(
    "document.documentElement.dataset.theme = arguments[0]", theme
  )
  ratio, where = opened.execute_script(CONTRAST)
  assert ratio >= 4.5, where  # WCAG 2, level AA
  unnamed = opened.execute_script(
    "return [...document.querySelectorAll('button, svg, canvas, select')]"
    ".filter((e) => !e.textContent.trim() && !e.ariaLabel && !e.ariaHidden "
    "&& !e.getAttribute('aria-labelledby') && !e.labels?.length)"
    ".map((e) => e.outerHTML.slice(0, 200))"
  )
  assert not unnamed
  headings = opened.execute_script(
    "return [...document.querySelectorAll('main :is(h2, h3, h4)')]"
    ".map((e) => e.tagName)"
  )
  assert headings[0] == "H2" and "H1" not in headings


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
  row = {
    "name": EVIL,
    "checkpoint": "x",
    "step": 1200,
    "rule": "best",
    "selected_by": "val/top1",
    "suites": {
      "modelnet40": {
        "split": "modelnet40",
        "data": "d",
        "protocol": {},
        "metrics": {"top1": 0.8421, "top3": 0.9},
      },
      "few_shot": {
        "split": "modelnet40",
        "data": "d",
        "protocol": {},
        "metrics": {"shots1": 0.5, "shots1_std": 0.012},
      },
    },
  }
  published = {"name": "MRD-T", "metrics": {"top1": 74.2}}
  for name, top1 in (("a", 0.8421), ("b", 0.7)):
    (tmp_path / name).mkdir()
    row["suites"]["modelnet40"]["metrics"]["top1"] = top1
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
  assert tables["Evaluation “few_shot”: accuracy (%)"][0] == [
    EVIL,
    "50.0 ± 1.2 best",
  ]
  small = browser.find_elements("css selector", "tbody th small")
  text = "step 1,200, the best checkpoint by val/top1, split modelnet40"
  assert text in [element.text for element in small]
  # An evaluation alone has its tables and nothing else.
  assert main([str(tmp_path / "a")]) == 0
  browser.get((tmp_path / "a" / "report.html").as_uri())
  sections = browser.find_elements("css selector", "main > section")
  assert [section.get_attribute("id") for section in sections] == ["results"]
