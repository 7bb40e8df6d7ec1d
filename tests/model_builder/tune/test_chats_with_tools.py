"""Chats with tools, in OpenAI's form and in ShareGPT's, to a bundle that calls them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts import codec
from contracts.bundle import Bundle
from contracts.errors import InputError
from model_builder.recipes.tune import parse
from tests.support.tiny_decoder import (
    TEMPLATE,
    TOOLS_TEMPLATE,
    tiny_tokenizer,
    tiny_weights,
    write_gguf,
)

LAMP = {
    "name": "lamp",
    "description": "switches",
    "parameters": {
        "type": "object",
        "properties": {"at": {"type": "string"}, "on": {"type": "boolean"}},
    },
}


def _openai(word: str) -> dict[str, Any]:
    call = {"name": "lamp", "arguments": json.dumps({"on": True, "at": word})}
    return {
        "tools": [{"type": "function", "function": LAMP}],
        "messages": [
            {"role": "user", "content": f"the {word}"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "quick"},
            {"role": "assistant", "content": [{"type": "text", "text": "brown"}]},
        ],
    }


def _sharegpt(word: str) -> dict[str, Any]:
    return {
        "tools": json.dumps([LAMP]),
        "conversations": [
            {"from": "human", "value": f"the {word}"},
            {
                "from": "function_call",
                "value": json.dumps({"name": "lamp", "arguments": {"on": True, "at": word}}),
            },
            {"from": "observation", "value": "quick"},
            {"from": "gpt", "value": "brown"},
        ],
    }


def _recipe(folder: Path, rows: list[dict[str, Any]], template: str, **keys: Any) -> Path:
    weights = tiny_weights()
    weights.config = replace(weights.config, trained_context=256)
    tokenizer = tiny_tokenizer(phrases=["<tool_call>", "</tool_call>"])
    write_gguf(folder / "base.gguf", weights, tokenizer, template=template)
    (folder / "chats.jsonl").write_bytes(b"".join(codec.encode(row) + b"\n" for row in rows))
    student = {"base": "base.gguf", "half": False, "context": 256, "epochs": 1, "targets": ["q"]}
    recipe = {
        "name": "caller",
        "version": "1.0.0",
        "task": "generate",
        "test": 2,
        "data": {"path": "chats.jsonl"},
        "student": student,
        **keys,
    }
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path


@pytest.mark.parametrize("form", [_openai, _sharegpt])
def test_calls_are_learnt_in_the_form_that_the_template_teaches(tmp_path: Path, form: Any) -> None:
    """The call as a device reads it, arguments in the schema's order; then the answer after it."""
    from tokenizers import Tokenizer

    from model_builder.generate.source import load_pretrained
    from model_builder.tune.chat import frame_of
    from model_builder.tune.data import read_chats

    _recipe(tmp_path, [form("fox")], TOOLS_TEMPLATE)
    call, after = read_chats(tmp_path / "chats.jsonl")
    pretrained = load_pretrained(str(tmp_path / "base.gguf"))
    tokenizer = Tokenizer.from_str(pretrained.tokenizer_json)
    frame = frame_of(pretrained, tokenizer, "")
    assert frame.answer(call.completion) == (
        '<tool_call>\n{"name": "lamp", "arguments": {"at":"fox","on":true}}\n</tool_call>'
    )
    assert frame.answer(after.completion) == "brown"
    text = tokenizer.decode(frame.ids(tokenizer, after.prompt), skip_special_tokens=False)
    assert text.startswith("lamp,<user>the fox<assistant><tool_call>")
    assert text.endswith("<tool>quick<assistant>")


def test_a_bundle_tuned_on_calls_makes_them_on_a_device(tmp_path: Path) -> None:
    """No frame stands around its prompts, or tools would be refused there."""
    from model_builder.tune.build import CHATS, build

    words = ["fox", "dog", "lazy", "over", "jumps", "brown"]
    path = _recipe(tmp_path, [_openai(word) for word in words], TOOLS_TEMPLATE)
    recipe, data = parse(json.loads(path.read_text()), path)
    made = build(recipe, data, tmp_path, tmp_path / "out")
    facts = Bundle.open(made.bundle).manifest.generator
    assert facts is not None
    assert (facts.prompt_prefix, facts.prompt_suffix) == ("", "")
    assert made.document["scores"]["lora"][CHATS]["pairs"] == 2
    assert made.document["rounding"]["pairs"] == 1
    # A device took the chats with their tools, whatever a random model answers.
    assert made.document["scores"]["lora"][CHATS]["tokens"] > 0


def test_tools_without_a_template_that_knows_them_are_refused_before_training(
    tmp_path: Path,
) -> None:
    """One clear error each: no tools in the template; a grammar beside tools."""
    from model_builder.tune.build import build

    rows = [_openai(word) for word in ("fox", "dog", "lazy")]
    for template, keys, words in (
        (TEMPLATE, {}, "teaches no form of calls"),
        (TOOLS_TEMPLATE, {"constrain": "prompt-values"}, "constrain"),
    ):
        path = _recipe(tmp_path, rows, template, **keys)
        recipe, data = parse(json.loads(path.read_text()), path)
        with pytest.raises(InputError, match=words):
            build(recipe, data, tmp_path, tmp_path / "out")
        assert not (tmp_path / "out" / "caller-1.0.0").exists()
