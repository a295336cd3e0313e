"""Charts as markup, and the markup."""

import json

import numpy as np

from mrd_jax.draw.chart import Chart, Curve, svg
from mrd_jax.draw.markup import json_block, tag

EVIL = "</script><img src=x onerror=\"document.title='owned'\">&'"


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
