"""Draws objects of parametric families, one module a few super-categories.

The order of the imports is the order of the classes.  New families go to the
end of the last module: anywhere else they would shift the labels of the data
that is already stored.  In all of the modules `g` is `geometry`.
"""

import importlib

from mrd_jax.procedural.families.registry import FAMILIES, Family

__all__ = ["FAMILIES", "Family"]

for _module in (
  *("furniture", "containers", "vehicles", "tools", "living", "buildings"),
  "things",
):
  importlib.import_module(f"{__name__}.{_module}")
