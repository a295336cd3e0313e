"""What the pages name is there: links, files, tests."""

import re
from pathlib import Path

import pytest
from runs import REPOSITORY

PAGES = [
  *REPOSITORY.glob("*.md"),
  *(REPOSITORY / "docs").glob("*.md"),
]
# A path of this repository: at the top, in the package, or among the tests.
PATH = re.compile(r"`([\w./-]+\.(?:py|md|sh|sbatch|yaml|css|js|json))(?:::\w+)?`")
ROOTS = ("", "mrd_jax", "tests", "docs", "configs", "launch", "benchmarks")
# What a run, a job or somebody else's system leaves, and files of other projects.
NOT_OURS = set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page):
  if page.name == "CHANGELOG.md":
    pytest.skip("it names what once was")
  text = page.read_text()
  links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
  missing = [x for x in links if not (page.parent / x).exists()]
  missing += [
    path
    for path in PATH.findall(text)
    if path not in NOT_OURS
    and not any((REPOSITORY / root / path).exists() for root in ROOTS)
  ]
  assert not missing
