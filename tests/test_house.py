"""The floors of the house, from the ground up, and its walls."""

import ast
import graphlib
from collections.abc import Iterator

import pytest
from runs import REPOSITORY

# A folder, or a file that stands alone, imports only from those before it.
FLOORS = (
  *("errors", "keys", "config", "io", "parallel", "metrics"),
  *("data", "models", "losses", "checkpoint", "procedural"),
  *("zoo", "teachers", "encoder", "draw"),
  *("training", "cli"),
  *("prepare", "convert", "inspect", "report", "search", "embed"),
  *("finetune", "evaluate", "compare", "ablate", "main", "list_models"),
)
# Who alone imports a library.
WALLS = {
  **dict.fromkeys(("pickle", "zipfile", "tarfile", "urllib"), ("io",)),
  **dict.fromkeys(("PIL", "trimesh", "laspy", "huggingface_hub"), ("io",)),
  "orbax": ("checkpoint",),
  "flax": ("models", "zoo", "checkpoint.state"),
  "torch": ("convert", "compare", "teachers.captions"),
  "apache_beam": ("prepare.job",),
  # Reading a dataset with it imports what a features.json names.
  "tensorflow_datasets": ("prepare.job",),
}


def imports(tree: ast.AST) -> Iterator[str]:
  """What a file imports, wherever in it, by dotted names."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


# Dotted names within the package; a folder's own file is the folder.
HOUSE = {
  ".".join(path.relative_to(REPOSITORY / "mrd_jax").with_suffix("").parts)
  .removesuffix("__init__")
  .rstrip("."): sorted(imports(ast.parse(path.read_text())))
  for path in (REPOSITORY / "mrd_jax").rglob("*.py")
}


@pytest.mark.parametrize("module", sorted(HOUSE.keys() - {""}))
def test_imports_go_down_and_keep_to_the_walls(module):
  for name in HOUSE[module]:
    library, *inside = name.split(".")
    if library == "mrd_jax":
      floors = [FLOORS.index(x.split(".")[0]) for x in (*inside[:1], module)]
      assert floors == sorted(floors), name
    assert f"{module}.".startswith(
      tuple(f"{room}." for room in WALLS.get(library, (module,)))
    ), name


def test_one_place_prints():
  """What else did would print a stranger's words raw."""
  for path in (REPOSITORY / "mrd_jax").rglob("*.py"):
    calls = (
      x
      for x in ast.walk(ast.parse(path.read_text()))
      if isinstance(x, ast.Call)
    )
    names = {ast.unparse(call.func) for call in calls}
    printing = names & {"print", "sys.stdout.write", "sys.stderr.write"}
    assert not printing or path.name == "terminal.py", path
    assert "argparse.ArgumentParser" not in names, f"{path}: cli.Parser"


def test_no_import_is_in_a_circle():
  graph = {module: set() for module in HOUSE}
  for module, names in HOUSE.items():
    for name in names:
      inner = name.removeprefix("mrd_jax.")
      inner = inner if inner in HOUSE else inner.rpartition(".")[0]
      if name.startswith("mrd_jax.") and inner:
        graph[module].add(inner)
  graphlib.TopologicalSorter(graph).prepare()
