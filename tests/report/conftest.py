"""Runs for the tests of reports."""

import json
import shutil

import pytest
from report_runs import EVIL, make_data, make_run

from mrd_jax.data import dataset


@pytest.fixture(scope="package")
def data(tmp_path_factory):
  """A dataset in which a class name would like to be HTML."""
  directory = make_data(tmp_path_factory.mktemp("data") / "procedural")
  path = directory / "metadata.json"
  metadata = json.loads(path.read_text())
  label = int(dataset.open_split(directory, "val")[0]["label"])
  metadata["class_names"]["val"][label] = EVIL
  path.write_text(json.dumps(metadata))
  return directory


@pytest.fixture(scope="package")
def runs(tmp_path_factory, data):
  root = tmp_path_factory.mktemp("runs")
  return [
    make_run(root / "base", data),
    make_run(root / "mrd", data, seed=1, intra=False),
  ]


@pytest.fixture(scope="package")
def page(runs, tmp_path_factory):
  """Two runs side by side, with texts that would like to be HTML."""
  from mrd_jax.report.page import write_page
  from mrd_jax.report.run_folder import read_run

  def open_split(*args, opened=dataset.open_split):
    return [
      record | {"texts": [f"{text} {EVIL}" for text in record["texts"]]}
      for record in opened(*args)
    ]

  path = tmp_path_factory.mktemp("page") / "report.html"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(dataset, "open_split", open_split)
    assert write_page([read_run(run) for run in runs], path) == []
  return path


@pytest.fixture(scope="package")
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
  browser.get_log("browser")  # what tests before have left
  browser.get(page.as_uri())
  return browser
