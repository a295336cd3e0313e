"""Parametric object families, one module a few super-categories.

The order of the imports is the order of the classes.  New families go to the
end of the last module: anywhere else they would shift the labels of the data
that is already stored.
"""

# isort: off
from mrd_jax.procedural.families import furniture as _furniture
from mrd_jax.procedural.families import containers as _containers
from mrd_jax.procedural.families import vehicles as _vehicles
from mrd_jax.procedural.families import tools as _tools
from mrd_jax.procedural.families import living as _living
from mrd_jax.procedural.families import buildings as _buildings
from mrd_jax.procedural.families import things as _things

# isort: on
from mrd_jax.procedural.families.registry import FAMILIES, Family

__all__ = ["FAMILIES", "Family"]

_MODULES = (
  _furniture,
  _containers,
  _vehicles,
  _tools,
  _living,
  _buildings,
  _things,
)
