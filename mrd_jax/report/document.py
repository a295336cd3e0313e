"""The frame of the page: one HTML file that needs nothing else, no network.

Everything is in the file, and its Content-Security-Policy forbids the rest:
only the script that is part of this package runs.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

from mrd_jax.report.gallery import Clouds
from mrd_jax.report.markup import Markup, json_block, tag

HEADINGS = {
  "Runs": ("Runs", ""),
  "Results": (
    "Results",
    "The best value of a column is bold where there are several; of relation "
    "gaps (mean absolute errors) it is the smallest.",
  ),
  "Losses": ("The loss and its parts", "By step."),
  "Weights": (
    "Dynamic weights",
    "Which teacher relation each pair follows (Eq. 9, Fig. 5 of the paper); "
    "the two weights of a pair sum to 1, dotted: 1/2.",
  ),
  "Zero-shot": (
    "Zero-shot accuracy",
    "Of held-out shapes, by step; dotted: chance.",
  ),
  "Fine-tuning": (
    "Accuracy after fine-tuning",
    "Of the test split, by step; dotted: chance.",
  ),
  "Confusion": (
    "Confusion",
    "Which class is taken for which, from the stored embeddings.",
  ),
  "Map": (
    "Embedding map",
    "Shapes in the joint space, laid out by t-SNE: neighbours are alike, "
    "distances between groups mean little. The most frequent classes are "
    "coloured; point at a dot to read its class.",
  ),
  "Retrieval": (
    "Retrieval",
    "What each query finds, best first, with cosine similarities. Queries are "
    "spread over the classes, not picked by result. Open a shape to turn it.",
  ),
  "Configuration": ("Configuration", ""),
  "Left out": ("What is not on this page", ""),
}


def document(
  title: str, parts: Mapping[str, Sequence[Markup]], clouds: Clouds
) -> str:
  """The whole HTML file.

  Args:
    title: Of the page, "NAME · report".
    parts: The blocks of every section, by a name of `HEADINGS`; those without
      blocks are left out.
    clouds: The point clouds that the blocks name.
  """
  files = resources.files("mrd_jax.report")
  style = (files / "page.css").read_text(encoding="utf-8")
  script = "".join(
    (files / name).read_text(encoding="utf-8")
    for name in ("page.js", "viewer.js")
  )
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    f"default-src 'none'; script-src 'sha256-{digest}'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
  )
  parts = {name: blocks for name, blocks in parts.items() if blocks}
  links = [tag("a", name, href=f"#{_anchor(name)}") for name in parts]
  sections = [
    tag(
      "section",
      tag("h2", HEADINGS[name][0]),
      tag("p", HEADINGS[name][1], class_="note") if HEADINGS[name][1] else None,
      *blocks,
      id=_anchor(name),
    )
    for name, blocks in parts.items()
  ]
  toggle = tag(
    "button", "Dark", id="theme", type="button", aria_pressed="false"
  )
  head = [
    tag("meta", charset="utf-8"),
    tag("meta", http_equiv="Content-Security-Policy", content=policy),
    tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
    tag("title", title),
    tag("style", Markup(style)),
  ]
  body = [
    tag("a", "Skip to the results", class_="skip", href="#main"),
    tag("header", tag("h1", title.removesuffix(" · report")), toggle),
    tag("nav", *links, aria_label="Sections"),
    tag("main", *sections, id="main"),
    _viewer(),
    json_block("clouds", clouds.encode()),
    tag("script", Markup(script)),
  ]
  page = tag("html", tag("head", *head), tag("body", *body), lang="en")
  return f"<!doctype html>\n{page}\n"


def _anchor(name: str) -> str:
  return name.lower().replace(" ", "-")


def _viewer() -> Markup:
  """The dialog in which one cloud is turned; viewer.js brings it to life."""
  buttons = [
    tag("button", text, type="button", data_act=act, aria_label=label)
    for act, text, label in (
      ("left", "←", "Turn left"),
      ("right", "→", "Turn right"),
      ("up", "↑", "Tilt up"),
      ("down", "↓", "Tilt down"),
      ("in", "+", "Nearer"),
      ("out", "−", "Farther"),
      ("reset", "Reset", "Reset the view"),
    )
  ]
  turn = tag(
    "button", "Auto-turn", type="button", data_act="turn", aria_pressed="false"
  )
  close = tag(
    "button", "Close", type="button", data_act="close", class_="close"
  )
  return tag(
    "dialog",
    tag("header", tag("h2", "", id="viewer-title"), close),
    tag("canvas", tabindex=0, role="img", aria_labelledby="viewer-title"),
    tag("div", *buttons, turn, class_="controls"),
    tag(
      "p",
      "Drag or use the arrow keys to turn, + and − to zoom, space to start and "
      "stop turning.",
      class_="note",
    ),
    id="viewer",
    aria_labelledby="viewer-title",
  )
