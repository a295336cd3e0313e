"""What the pages name is there: links, modules, tests."""

import re

import pytest
from runs import REPOSITORY

PAGES = [
  path
  for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"))
  if path.name != "CHANGELOG.md"  # it names what once was
]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
# A file of ours: in a folder, of code.  It may be given from the package on.
CODE = re.compile(r"`((?:\w+/)+[a-z0-9_]+\.(?:py|sh|sbatch|yaml))(?:::\w+)?`")
OTHERS = {"src/models/ppat.py"}  # OpenShape's
ROOTS = ("", "mrd_jax", "tests")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page):
  text = page.read_text()
  missing = [x for x in LINK.findall(text) if not (page.parent / x).exists()]
  missing += [
    path
    for path in set(CODE.findall(text)) - OTHERS
    if not any((REPOSITORY / root / path).exists() for root in ROOTS)
  ]
  assert not missing
