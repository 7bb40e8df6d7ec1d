"""What the documents link to is there, and the site needs nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs import pages

ROOT, DOCS = pages.ROOT, pages.DOCS
MAX_PICTURE_BYTES = 100_000
MAX_PICTURES_BYTES = 1_000_000
MAX_README_LINES = 90
OUTSIDE = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]+src=\"?(?:https?:)?//"
    r"|<link\b(?![^>]+rel=\"?(?:canonical|prev|next))[^>]+href=\"?(?:https?:)?//"
)


def _wrong(page: Path, target: str) -> str:
    if re.match(r"(https?|mailto):", target):
        return ""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if file in pages.MADE:
        return ""  # the site's build, which is strict, looks at these
    if not file.exists():
        return "is not there"
    if not file.is_relative_to(ROOT):
        return "is outside of the project"
    if anchor and file.suffix == ".md" and anchor not in pages.anchors(file):
        return "has no such heading, or forge and site name it differently"
    return ""


def test_every_link_leads_somewhere() -> None:
    """Relative links by file and heading."""
    found = [
        f"{page.relative_to(ROOT)}:{number}: {target} {problem}"
        for page in pages.pages()
        for number, target in pages.links(page)
        if (problem := _wrong(page, target))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("docs/nowhere.md", "not there"),
        ("docs/architecture.md#no-such-heading", "no such heading"),
        ("..", "outside"),
        ("docs/architecture.md#the-rooms", ""),
        ("https://example.org/x", ""),
    ],
)
def test_a_link_that_leads_nowhere_is_found(target: str, says: str) -> None:
    """The check itself can fail."""
    assert says in _wrong(ROOT / "README.md", target)
    assert bool(says) == bool(_wrong(ROOT / "README.md", target))


def _navigation() -> list[str]:
    class Loader(yaml.SafeLoader):
        """Passes over what names Python objects."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    text = (ROOT / "mkdocs.yml").read_text()
    found: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, str):
            found.append(node)
        elif isinstance(node, dict):
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(yaml.load(text, Loader)["nav"])
    return found


def test_the_site_has_every_page() -> None:
    """What is in docs is in the navigation once, and what is there is in docs or beside README."""
    listed = _navigation()
    assert len(listed) == len(set(listed))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    around = {name for name in listed if (ROOT / name).is_file()}
    around |= {made.name for made in pages.MADE}
    unlisted = {name for name in there - set(listed) if not name.startswith("adr/0")}
    assert not unlisted
    assert set(listed) - there <= around


def test_pictures_are_small_and_have_words() -> None:
    """A page loads over a slow link, and a reader who sees no picture is told what it shows."""
    pictures = [file for file in DOCS.rglob("*") if file.suffix in {".png", ".svg", ".jpg"}]
    assert pictures
    assert not [file for file in pictures if file.stat().st_size > MAX_PICTURE_BYTES]
    assert sum(file.stat().st_size for file in pictures) < MAX_PICTURES_BYTES
    for page in pages.pages():
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", page.read_text("utf-8")):
            assert len(words) > 8, f"{page.name}: {target} has no description"


def test_readme_is_one_screen() -> None:
    """What it is, whom it is for, how to begin; all else has a page."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count("\n") <= MAX_README_LINES
    for heading in ("Who it is for", "What it is not for"):
        assert f"## {heading}" in text


def test_the_site_builds_without_a_warning_and_needs_nobody_else(tmp_path: Path) -> None:
    """In strict mode; no script, style, font or picture of another host."""
    pytest.importorskip("material", reason="the site is built with mkdocs-material: extra `dev`")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) > 40
    assert not [file.name for file in built if OUTSIDE.search(file.read_text("utf-8"))]
