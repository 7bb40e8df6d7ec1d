"""The tour and the contributor's checklists name files that are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import pages

ROOT = Path(__file__).parents[2]
NAMED = re.compile(
    r"`((?:agent|contracts|fleet|model_builder|tests|docs|firmware_configs|benchmarks)/[\w/.*-]+)`"
)
MAX_LINES = 400
REASON = re.compile(r"^Over 400 lines: \w.{15,}\.$", re.MULTILINE)
FOR = re.compile(r"\S[^\n]{15,}")
NOT_HERE = re.compile(r"^Not here: [^.]{10,}", re.MULTILINE)
FOLDERS = ["agent", "benchmarks", "contracts", "docs", "examples", "firmware_configs", "fleet"]
FOLDERS += ["model_builder", "tests"]
PAGES = [
    str(page.relative_to(ROOT))
    for page in pages.pages()
    if page.name != "CHANGELOG.md" and page.parent.name != "adr"  # those tell what was
]


def modules(folder: str) -> Iterator[Path]:
    """All Python below a folder."""
    return (one for one in (ROOT / folder).rglob("*.py") if "node_modules" not in one.parts)


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
def test_each_package_has_one_picture_with_all_its_rooms(package: str) -> None:
    """A room that nobody drew is one that nobody finds."""
    text = (ROOT / "docs/architecture.md").read_text().split("## The rooms")[1]
    drawn = [one for one in text.split("```") if f"subgraph {package}\n" in one]
    assert len(drawn) == 1
    rooms = {file.parent.name for file in (ROOT / package).glob("*/__init__.py")}
    assert rooms - set(re.findall(r"\w+", re.sub(r"\w+\[", "[", drawn[0]))) == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_long_module_says_why_it_is_one(folder: str) -> None:
    """Over 400 lines: a second job to move out, or a sentence at its head that says why not.

    What is short again says it no more.
    """
    wrong = []
    for file in modules(folder):
        text = file.read_text("utf-8")
        lines, said = text.count("\n"), False
        if "\nOver 400 lines: " in text:
            said = REASON.search(ast.get_docstring(ast.parse(text)) or "") is not None
        if (lines > MAX_LINES) != said:
            wrong.append(f"{file.relative_to(ROOT)}: {lines} lines")
    assert wrong == []


@pytest.mark.parametrize("package", ["agent", "contracts", "fleet", "model_builder"])
def test_every_module_says_what_it_is_for(package: str) -> None:
    """In its first sentence, before anything else."""
    for file in (ROOT / package).rglob("*.py"):
        text = file.read_text("utf-8")
        assert text.startswith(('"""', 'r"""')), f"{file} has no docstring"


@pytest.mark.parametrize("package", ["agent", "contracts", "fleet", "model_builder"])
def test_every_room_says_what_may_not_be_in_it(package: str) -> None:
    """After what it is for: one sentence, so that what does not belong has no room here."""
    silent = []
    for file in (ROOT / package).rglob("__init__.py"):
        said = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
        if not FOR.match(said) or not NOT_HERE.search(said):
            silent.append(str(file.relative_to(ROOT)))
    assert silent == []


def test_every_room_has_its_layer() -> None:
    """A new folder is put above what it needs, and below what needs it."""
    layers = re.findall(
        r'"((?:agent|fleet|model_builder)\.[^"]+)"', (ROOT / "pyproject.toml").read_text()
    )
    known = {name.replace(".", "/") for line in layers for name in re.split(r" [|:] ", line)}
    rooms = {
        str(file.parent.relative_to(ROOT))
        for package in ("agent", "fleet", "model_builder")
        for file in (ROOT / package).glob("*/__init__.py")
    }
    assert rooms - known == set()
