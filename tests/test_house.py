"""The floors of the house, from the ground up, and its walls."""

import ast
import graphlib
from pathlib import Path

import pytest
from runs import REPOSITORY

PACKAGE = REPOSITORY / "mrd_jax"
# A room imports only from rooms before it.
FLOORS = (
  *("errors", "config", "io", "parallel", "metrics"),
  *("data", "models", "losses", "checkpoint", "procedural"),
  *("teachers", "encoder", "draw"),
  *("training", "cli"),
  *("prepare", "convert", "inspect", "report", "search", "embed"),
  *("finetune", "evaluate", "compare", "ablate", "main"),
)
# Who alone imports a library.
WALLS = {
  "orbax": ("checkpoint",),
  "flax": ("models", "checkpoint/state.py"),
  "pickle": ("io",),
  "zipfile": ("io",),
  "tarfile": ("io",),
  "PIL": ("io",),
  "trimesh": ("io",),
  "huggingface_hub": ("io",),
  "urllib": ("io",),
  "torch": ("convert", "compare", "teachers/captions.py"),
  "apache_beam": ("prepare/job",),
}
FILES = {
  path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
  for path in PACKAGE.rglob("*.py")
}


def imports(tree: ast.AST) -> list[str]:
  """Every module that a file imports, wherever in it; dotted."""
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      found += [f"{node.module}.{alias.name}" for alias in node.names]
  return found


def file_of(name: str) -> str | None:
  """The file of the package that a dotted name is, or is in."""
  path = Path(*name.split(".")[1:])
  candidates = (f"{path}.py", f"{path}/__init__.py", f"{path.parent}.py")
  return next(
    (x for x in (*candidates, f"{path.parent}/__init__.py") if x in FILES), None
  )


GRAPH = {
  file: {
    found
    for name in imports(tree)
    if name.startswith("mrd_jax.") and (found := file_of(name))
  }
  for file, tree in FILES.items()
}


def room(file: str) -> str:
  return file.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("file", [x for x in FILES if x != "__init__.py"])
def test_imports_go_down(file):
  height = FLOORS.index(room(file))
  up = [
    x
    for x in GRAPH[file]
    if room(x) != room(file) and FLOORS.index(room(x)) >= height
  ]
  assert not up


def test_no_import_is_in_a_circle():
  graphlib.TopologicalSorter(GRAPH).prepare()


@pytest.mark.parametrize("library", WALLS)
def test_walls(library):
  inside = WALLS[library]
  outside = [
    file
    for file, tree in FILES.items()
    if any(name.split(".")[0] == library for name in imports(tree))
    and not file.startswith(inside)
  ]
  assert not outside
