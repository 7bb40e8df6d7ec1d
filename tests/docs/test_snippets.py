"""Files and programs that the documents show can be used as they stand."""

from __future__ import annotations

import ast
import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from contracts.config import AgentConfig, SourceConfig
from fleet.config import ApiConfig, FleetConfig
from fleet.rollout.spec import RolloutSpec
from fleet.webhooks import signature
from model_builder.recipes.classify import Recipe
from tests.docs import pages

#: Of other programs: Home Assistant's automations.
FOREIGN = {"automation", "mqtt", "rest_command", "sensor"}


def _blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(pages.ROOT)}:{number}", "\n".join(lines))
        for page in pages.pages()
        for kind, number, lines in pages.blocks(page.read_text("utf-8"))
        if kind == language
    ]


def _keys(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def check(document: dict[str, Any]) -> None:
    """Reads a piece of a configuration by the type that it is of."""
    names = set(document)
    if names & FOREIGN:
        return
    if {"bundle", "version"} <= names:
        RolloutSpec.model_validate(document)
    elif "sources" in names:
        msgspec.convert(document["sources"], list[SourceConfig])
        assert names <= _keys(AgentConfig)
    elif names <= _keys(FleetConfig):
        msgspec.convert(document.get("api", {}), ApiConfig)
    elif names <= _keys(AgentConfig):
        msgspec.convert(
            {"fleet": "f", "device": "d", "board": "b", "trust_root": "", **document}, AgentConfig
        )
    else:
        assert names <= _keys(Recipe), names
        for name in names:
            kind = next(f for f in msgspec.structs.fields(Recipe) if f.encode_name == name).type
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                assert set(document[name]) <= _keys(kind), (name, set(document[name]) - _keys(kind))


@pytest.mark.parametrize(("where", "text"), _blocks("yaml"), ids=lambda value: value.split("\n")[0])
def test_configuration_in_the_documents_is_valid(where: str, text: str) -> None:
    """Pieces of fleet.yaml, agent.yaml, recipes and rollouts have keys that exist."""
    check(yaml.safe_load(text))


def test_a_wrong_key_is_found() -> None:
    """The check itself can fail."""
    with pytest.raises((msgspec.ValidationError, ValueError)):
        check({"sources": [{"name": "a", "kind": "pipe"}]})
    with pytest.raises(AssertionError):
        check({"teacher": {"sourc": "x"}})
    with pytest.raises(ValueError, match="wave"):
        check({"bundle": "a", "version": "1.0.0", "wave": 1})


@pytest.mark.parametrize(
    ("where", "text"), _blocks("python"), ids=lambda value: value.split("\n")[0]
)
def test_programs_in_the_documents_are_python(where: str, text: str) -> None:
    """At least they can be read."""
    ast.parse(text)


def test_the_page_on_webhooks_checks_a_signature_as_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours is believed; another secret, body or time is not."""
    page = pages.DOCS / "how-to" / "webhooks.md"
    [text] = ["\n".join(b[2]) for b in pages.blocks(page.read_text()) if b[0] == "python"]
    scope: dict[str, Any] = {}
    exec(compile(text, "webhooks.md", "exec"), scope)
    monkeypatch.setattr(scope["time"], "time", lambda: 1_000_000.0)
    body = b'{"event": "x"}'
    headers = {
        "Shoal-Timestamp": "1000000",
        "Shoal-Signature": signature("secret", "1000000", body),
    }
    assert scope["is_ours"]("secret", headers, body)
    assert not scope["is_ours"]("other", headers, body)
    assert not scope["is_ours"]("secret", headers, body + b" ")
    late = {"Shoal-Timestamp": "999000", "Shoal-Signature": signature("secret", "999000", body)}
    assert not scope["is_ours"]("secret", late, body)


def test_the_table_of_the_tutorial_can_be_built_from() -> None:
    """Four labels, each with rows enough for a test."""
    file = Path(pages.DOCS / "tutorials" / "data" / "support.csv")
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    counts = {label: sum(r["label"] == label for r in rows) for label in {r["label"] for r in rows}}
    assert len(counts) == 4
    assert min(counts.values()) >= 40
