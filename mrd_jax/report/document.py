"""Writes the frame of the page: one HTML file that needs nothing else, no network.

Everything is in the file, and its Content-Security-Policy forbids the rest:
only the script that is part of this package runs.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import NamedTuple

from mrd_jax.draw.markup import Markup, tag


class Section(NamedTuple):
  """A part of the page.

  Attributes:
    name: In the navigation.
    title: Its heading.
    note: What to know about it; may be empty.
    blocks: What it shows; without blocks it is left out.
  """

  name: str
  title: str
  note: str
  blocks: Sequence[Markup]


def document(title: str, sections: Iterable[Section]) -> str:
  """Writes the whole HTML file; `title` is "NAME · report"."""
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
  links, parts = [], []
  for name, heading, note, blocks in sections:
    if blocks:
      anchor = name.lower().replace(" ", "-")
      links.append(tag("a", name, href=f"#{anchor}"))
      about = tag("p", note, class_="note") if note else None
      parts.append(
        tag("section", tag("h2", heading), about, *blocks, id=anchor)
      )
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
    tag("main", *parts, id="main"),
    _viewer(),
    tag("script", Markup(script)),
  ]
  page = tag("html", tag("head", *head), tag("body", *body), lang="en")
  return f"<!doctype html>\n{page}\n"


def _viewer() -> Markup:
  """Makes the dialog in which one cloud is turned; viewer.js brings it to life."""
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
