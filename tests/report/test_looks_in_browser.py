"""The page in a browser: maps, clouds to turn, phones, print, contrast."""

import base64

import numpy as np
import pytest
from report_runs import EVIL, SHAPES

from mrd_jax.data import dataset
from mrd_jax.encoder.embed_split import unit
from mrd_jax.report.retrieval import QUERIES, choose_queries


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
  assert not opened.find_elements("css selector", "details:not([open])")
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
