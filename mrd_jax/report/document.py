"""Writes the frame of the page: one HTML file that needs nothing else.

Everything is in the file, and its Content-Security-Policy forbids the rest:
only the script that is part of this package runs.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from typing import NamedTuple

from mrd_jax.draw.markup import Markup, tag
from mrd_jax.report.run_folder import Folders


class Section(NamedTuple):
  """A part of the page.

  Attributes:
    name: In the navigation.
    title: Its heading.
    blocks: Makes what it shows; without blocks it is left out.
    note: What to know about it; may be empty.
  """

  name: str
  title: str
  blocks: Callable[[Folders], list[Markup]]
  note: str = ""


def document(
  title: str, filled: Iterable[tuple[Section, Sequence[Markup]]]
) -> str:
  """Writes the whole HTML file.

  Args:
    title: Of the page, "NAME · report".
    filled: Sections and their blocks.
  """
  script = read("page.js") + read("viewer.js")
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    f"default-src 'none'; script-src 'sha256-{digest}'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
  )
  links, parts = [], []
  for (name, heading, _, note), blocks in filled:
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
    tag("style", Markup(read("page.css"))),
  ]
  body = [
    tag("a", "Skip to the results", class_="skip", href="#main"),
    tag("header", tag("h1", title.removesuffix(" · report")), toggle),
    tag("nav", *links, aria_label="Sections"),
    tag("main", *parts, id="main"),
    Markup(read("viewer.html")),
    tag("script", Markup(script)),
  ]
  page = tag("html", tag("head", *head), tag("body", *body), lang="en")
  return f"<!doctype html>\n{page}\n"


def read(name: str) -> str:
  """Reads a file of this folder."""
  return (resources.files("mrd_jax.report") / name).read_text("utf-8")
