"""The tour and the contributor's checklists name files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import pages

ROOT = Path(__file__).parents[2]
NAMED = re.compile(
    r"`((?:agent|contracts|fleet|model_builder|tests|docs|firmware_configs|benchmarks)/[\w/.*-]+)`"
)
MAX_LINES = 400
PAGES = [
    str(page.relative_to(ROOT))
    for page in pages.pages()
    if page.name != "CHANGELOG.md" and page.parent.name != "adr"  # those tell what was
]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    """Moving a file means to say so where people read."""
    gone = [
        name
        for name in NAMED.findall((ROOT / page).read_text())
        if "NAME" not in name and not list(ROOT.glob(name.rstrip("/")))
    ]
    assert not gone


def test_the_tour_names_a_file_at_every_step() -> None:
    """One request, one update, one row, one sample."""
    tour = (ROOT / "docs/architecture.md").read_text().split("## A tour of ten minutes")[1]
    steps = [line for line in tour.splitlines() if re.match(r"\d\.", line)]
    assert len(steps) >= 16
    assert all(NAMED.search(line) for line in steps)


@pytest.mark.parametrize("package", ["agent", "contracts", "fleet", "model_builder"])
def test_a_long_module_says_why_it_is_one(package: str) -> None:
    """Over 400 lines: a second job to move out, or a reason at its head."""
    silent = []
    for file in (ROOT / package).rglob("*.py"):
        text = file.read_text("utf-8")
        head = text.split('"""')[1] if text.startswith('"""') else ""
        # A fix of some lines is no reason to split a module: the next change is.
        if text.count("\n") > MAX_LINES * 1.25 and "Over 400 lines: " not in head:
            silent.append(f"{file.relative_to(ROOT)}: {text.count(chr(10))} lines")
    assert silent == []


@pytest.mark.parametrize("package", ["agent", "contracts", "fleet", "model_builder"])
def test_every_module_says_what_it_is_for(package: str) -> None:
    """In its first sentence, before anything else."""
    for file in (ROOT / package).rglob("*.py"):
        text = file.read_text("utf-8")
        assert text.startswith(('"""', 'r"""')), f"{file} has no docstring"
