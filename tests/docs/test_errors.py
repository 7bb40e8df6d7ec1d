"""The page on errors knows every code of the product, and no other."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| (.+) \| (.+) \|$", re.MULTILINE)


@cache
def _collector() -> Any:
    spec = importlib.util.spec_from_file_location("error_codes", ROOT / "docs" / "error_codes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["error_codes"] = module
    spec.loader.exec_module(module)
    return module


@cache
def _codes() -> Any:
    return _collector().collect()


def _rows() -> list[tuple[str, str, str]]:
    return ROW.findall(PAGE.read_text("utf-8"))


def test_every_error_code_is_explained() -> None:
    """What it means and what to do stand in docs/troubleshooting.md, in a row of its own."""
    explained = {code for code, _, _ in _rows()}
    missing = {
        code: places[0]
        for code, places in _codes().places.items()
        if not fnmatch.filter(explained, code)
    }
    assert not missing, "add a row to docs/troubleshooting.md for each"


def test_no_explained_code_is_a_stranger() -> None:
    """What nothing gives any more goes from the page."""
    known = _codes().places
    assert not [
        code for code, _, _ in _rows() if not any(fnmatch.fnmatch(code, one) for one in known)
    ]


def test_every_code_has_one_row_that_helps() -> None:
    """Said once, in words, with something to do."""
    rows = _rows()
    assert [code for code, count in Counter(code for code, _, _ in rows).items() if count > 1] == []
    assert not [code for code, means, helps in rows if len(means) < 12 or len(helps) < 6]


def test_no_code_hides_from_the_collector() -> None:
    """An error whose code cannot be followed to its words is given in a way that can be."""
    assert _codes().lost == {}


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        ('raise InputError("one-code", "x")', {"one-code"}),
        ('raise InputError("one" if a else "two-b", "x")', {"one", "two-b"}),
        ('CODE = "of-a-name"\nraise RefusedError(CODE, "x")', {"of-a-name"}),
        ('def f(code):\n    raise ShoalError(code, "x")\nf("given-it")', {"given-it"}),
        ('def f(*, code="by-default"):\n    raise ShoalError(code, "x")', {"by-default"}),
        ('class Own(InputError):\n    pass\nraise Own("below", "x")', {"below"}),
        ('raise InputError(TABLE[x], "x")\nTABLE = {1: "in-a-table"}', {"in-a-table"}),
        ('raise InputError(f"{a}-part", "x")', {"*-part"}),
        ('print("not-an-error")\nother = {"code-like": 1}', set()),
    ],
)
def test_the_collector_follows_a_code(source: str, codes: set[str], tmp_path: Path) -> None:
    """Written out, by choice, by name, through a function, in a table."""
    for package in _collector().PACKAGES:
        (tmp_path / package).mkdir()
    errors = "class ShoalError(Exception): ...\nclass InputError(ShoalError): ...\n"
    errors += "class RefusedError(ShoalError): ...\n"
    (tmp_path / "contracts" / "errors.py").write_text(errors)
    (tmp_path / "agent" / "one.py").write_text(source)
    found = _collector().collect(tmp_path)
    assert set(found.places) == codes
    assert not found.lost


def test_a_code_that_cannot_be_followed_is_told(tmp_path: Path) -> None:
    """Else a code could be anywhere."""
    for package in _collector().PACKAGES:
        (tmp_path / package).mkdir()
    text = 'class ShoalError(Exception): ...\nraise ShoalError(make(), "x")\n'
    (tmp_path / "agent" / "one.py").write_text(text)
    assert list(_collector().collect(tmp_path).lost.values()) == ["make()"]
