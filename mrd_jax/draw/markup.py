"""Makes HTML elements of escaped text; there is no other way to make one.

Class names, captions and config values come from anywhere: every string is
escaped unless `tag` itself has made it.
"""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any


class Markup(str):
  """HTML that is safe as it stands."""

  __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: Any) -> Markup:
  """Makes an HTML or SVG element.

  Args:
    name: Of the element.
    *children: Elements, which stay as they are, and strings, which are
      escaped; None is left out.
    **attributes: `class_` is "class", `data_x` is "data-x"; None and False
      are left out, True is an attribute without a value.
  """
  parts = [name]
  for key, value in attributes.items():
    if value is not None and value is not False:
      key = key.removesuffix("_").replace("_", "-")
      parts.append(
        key if value is True else f'{key}="{html.escape(str(value))}"'
      )
  opening = f"<{' '.join(parts)}>"
  if name == "meta":  # the only void element that the page has
    return Markup(opening)
  return Markup(f"{opening}{join(children)}</{name}>")


def join(children: Iterable[str | None]) -> Markup:
  """Makes one of elements and strings, one after the other."""
  return Markup(
    "".join(
      child if isinstance(child, Markup) else html.escape(child)
      for child in children
      if child is not None
    )
  )


def table(
  title: str, head: Sequence[str], rows: Iterable[Sequence[str]], **attributes
) -> Markup:
  """Makes a table in a box that scrolls where the page is narrow.

  A string becomes a cell: a heading in `head` and at the start of a row, else
  one of data.  A Markup is a cell already, or, as a row, the whole of it.

  Args:
    title: Of the box, for screen readers.
    head: The headings of the columns.
    rows: Their cells.
    **attributes: Of the table, see `tag`.
  """

  def cell(content: str, name: str, **scope: str) -> Markup:
    if isinstance(content, Markup):
      return content
    return tag(name, content, **scope)

  body = [
    row
    if isinstance(row, Markup)
    else tag(
      "tr",
      cell(row[0], "th", scope="row"),
      *(cell(content, "td") for content in row[1:]),
    )
    for row in rows
  ]
  headings = [cell(content, "th", scope="col") for content in head]
  made = tag(
    "table",
    tag("thead", tag("tr", *headings)),
    tag("tbody", *body),
    **attributes,
  )
  return tag(
    "div", made, class_="scroll", role="region", aria_label=title, tabindex=0
  )


def json_block(identifier: str, value: Any) -> Markup:
  """Makes data for the page's scripts, in which no "</script>" can occur."""
  text = json.dumps(value, separators=(",", ":"), allow_nan=False)
  for character in "<>&":
    text = text.replace(character, f"\\u{ord(character):04x}")
  return tag("script", Markup(text), type="application/json", id=identifier)
