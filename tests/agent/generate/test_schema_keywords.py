"""Keywords of JSON Schema: what a model writes is valid by another program, or it is refused."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from agent.generate.model import GenerativeModel
from contracts.errors import InputError
from contracts.requests import GenerateRequest

NUMBERS = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 3}
A_AND_B = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}, "b": {"enum": [1]}},
    "required": ["a"],
    "additionalProperties": False,
}
REFUSED: dict[str, dict[str, Any]] = {
    "not: x-guidance": {"not": {}, "x-guidance": {"lenient": True}},
    "x-guidance": {"type": "array", "x-guidance": {"whitespace_flexible": True}},
    "oneOf": {"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 3}]},
    "uniqueItems": {**NUMBERS, "uniqueItems": True},
    "contains": {**NUMBERS, "contains": {"const": 3}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a$"}},
    "dependentRequired": {**A_AND_B, "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {**A_AND_B, "dependentSchemas": {"a": {"required": ["b"]}}},
    "if": {**A_AND_B, "if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}},
    "not": {"type": "integer", "not": {"const": 1}, "minimum": 1, "maximum": 2},
    "unevaluatedProperties": {**A_AND_B, "unevaluatedProperties": False},
    "format: regex": {"type": "string", "format": "regex"},
}
KEPT: dict[str, dict[str, Any]] = {
    "oneOf of what excludes each other": {"oneOf": [{"const": "a"}, {"const": "b"}]},
    "anyOf": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
    "minItems": NUMBERS,
    "required": A_AND_B,
    "minProperties": {
        "type": "object",
        "properties": {"a": {"enum": [1]}},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "multipleOf": {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 50},
    "prefixItems": {
        "type": "array",
        "prefixItems": [{"const": 1}, {"const": "x"}],
        "items": False,
        "minItems": 2,
    },
    "format: date": {"type": "string", "format": "date"},
    "format: uuid": {"type": "string", "format": "uuid"},
    "const": {"const": {"a": [1, None, "é"]}},
}


@pytest.mark.parametrize("keyword", REFUSED)
def test_a_keyword_that_cannot_be_held_is_refused_by_name(
    keyword: str, model: GenerativeModel
) -> None:
    """Rather than passed over."""
    with pytest.raises(InputError, match=keyword.split(": ")[-1]) as raised:
        model.generate(GenerateRequest(prompt="the", json_schema=REFUSED[keyword]))
    assert raised.value.code == "bad-constraint"


@pytest.mark.parametrize("keyword", KEPT)
def test_what_is_written_under_a_keyword_is_valid(keyword: str, model: GenerativeModel) -> None:
    """Whatever a random model would say."""
    validator = jsonschema_rs.validator_for(KEPT[keyword], validate_formats=True)
    for seed in range(8):
        request = GenerateRequest(
            prompt="the", json_schema=KEPT[keyword], temperature=2, seed=seed, max_tokens=60
        )
        text = model.generate(request).text
        assert validator.is_valid(json.loads(text)), text
