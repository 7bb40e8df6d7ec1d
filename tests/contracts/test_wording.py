"""Errors of validators are told in words: no regular expression and no type name is shown."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from pydantic import BaseModel, Field, ValidationError

from contracts import codec, wording
from contracts.errors import InputError
from contracts.manifest import Manifest
from contracts.messages import Name, Version
from contracts.requests import ClassifyRequest

ROOT = Path(__file__).parents[2]


def patterns() -> set[str]:
    """Every pattern that the source holds a value against."""
    found = set()
    for package in ("agent", "contracts", "fleet", "model_builder"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.keyword | ast.Assign):
                    continue
                named = node.arg if isinstance(node, ast.keyword) else ast.unparse(node.targets[0])
                if named != "pattern" and not str(named).endswith("_PATTERN"):
                    continue
                if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                    found.add(node.value.value)
    return found


def test_every_pattern_of_the_source_has_words() -> None:
    """A new one needs its own."""
    found = patterns()
    assert len(found) > 10
    assert found - wording.PATTERNS.keys() == set()
    assert wording.PATTERNS.keys() - found == set(), "words of patterns that are no more"


class Inner(msgspec.Struct):
    """What is inside."""

    version: Version = "1.0.0"
    kind: Literal["small", "large"] = "small"
    names: Annotated[list[Name], msgspec.Meta(max_length=2)] = []


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    """A document."""

    name: Name
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    text: Annotated[str, msgspec.Meta(max_length=4)] = ""
    inner: Inner | None = None
    by_name: dict[str, Inner] = {}
    more: list[Inner] = []


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({}, "'name' is missing"),
        ({"name": "a", "nam": 1}, "the key 'nam' is not known; is name meant?"),
        ({"name": "a", "zqx": 1}, "the key 'zqx' is not known"),
        (
            {"name": "a", "more": [{}, {"kind": "big"}]},
            "more[1].kind: expected one of large, small",
        ),
        ({"name": "a b"}, "name: expected a name: up to 64"),
        ({"name": 7}, "name: expected text, found a whole number"),
        ({"name": "a", "count": 0}, "count: expected a whole number of at least 1"),
        ({"name": "a", "count": 10}, "count: expected a whole number of at most 9"),
        ({"name": "a", "count": "1"}, "count: expected a whole number, found text"),
        ({"name": "a", "text": "12345"}, "text: expected at most 4 characters"),
        ({"name": "a", "inner": []}, "inner: expected keys with values or nothing, found a list"),
        ({"name": "a", "inner": {"kind": "big"}}, "inner.kind: expected one of large, small"),
        ({"name": "a", "by_name": {"x": {"kind": "big"}}}, "expected one of large, small"),
        ({"name": "a", "inner": {"names": ["a", "b", "c"]}}, "inner.names: expected at most 2"),
        ({"name": "a", "inner": {"names": ["a", ""]}}, "inner.names[1]: expected a name"),
        (
            {"name": "a", "inner": {"version": 1.0}},
            'inner.version: expected text, found a number; for 1.0 write "1.0.0"',
        ),
        (
            {"name": "a", "inner": {"version": "v2"}},
            'of three numbers, for example 1.0.0; for v2 write "2.0.0"',
        ),
        ({"name": "a", "inner": {"version": "newest"}}, "for example 1.0.0"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(document: dict[str, object], told: str) -> None:
    """Everything that a validator can say."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(document, Outer)
    text = wording.of(caught.value, Outer, document)
    assert told in text
    assert not {"`", "$", "^", "regex", "str", "int", "float"} & set(text.replace(":", " ").split())
    assert "`" not in text


def test_messages_of_every_kind_of_decoding_are_words() -> None:
    """JSON and YAML."""
    with pytest.raises(InputError, match="'text' is missing"):
        codec.decode(b"{}", ClassifyRequest, what="a classify request")
    with pytest.raises(InputError, match=r"a manifest is not valid: .*is missing"):
        codec.decode(b"{}", Manifest, what="a manifest")
    with pytest.raises(InputError, match=r'inner.version: .* for 1.1 write "1.1.0"'):
        codec.convert_yaml(b"name: a\ninner: {version: 1.10}", Outer, what="a recipe")


def test_a_pattern_of_the_api_is_words() -> None:
    """Pydantic's message is replaced."""

    class Body(BaseModel, extra="forbid"):
        version: Annotated[str, Field(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$")]

    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"version": "1.0", "verison": "1.0.0"})
    error, other = caught.value.errors()
    assert wording.pattern(other["msg"]) == "this key is not known"
    assert wording.pattern(error["msg"]) == (
        "expected a version of three numbers, for example 1.0.0"
    )
