"""HTML elements as escaped text; there is no other way to make one.

Class names, captions and config values come from anywhere: every string is
escaped unless `tag` itself has made it.
"""

import html
import json
from collections.abc import Iterable
from typing import Any

VOID = frozenset({"meta"})  # of the elements that the page has


class Markup(str):
  """HTML that is safe as it stands."""

  __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: Any) -> Markup:
  """An HTML or SVG element.

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
  if name in VOID:
    return Markup(opening)
  return Markup(f"{opening}{join(children)}</{name}>")


def join(children: Iterable[str | None]) -> Markup:
  """Elements and strings one after the other."""
  return Markup(
    "".join(
      child if isinstance(child, Markup) else html.escape(child)
      for child in children
      if child is not None
    )
  )


def json_block(identifier: str, value: Any) -> Markup:
  """Data for the page's scripts, in which no "</script>" can occur."""
  text = json.dumps(value, separators=(",", ":"), allow_nan=False)
  for character in "<>&":
    text = text.replace(character, f"\\u{ord(character):04x}")
  return tag("script", Markup(text), type="application/json", id=identifier)
