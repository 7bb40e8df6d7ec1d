"""Calls of tools in the forms of other families: each by a template that teaches it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from agent.generate.confidence import Confidence
from agent.generate.model import GenerativeModel
from agent.generate.tools import Calling
from contracts.answers import Generated
from contracts.bundle import Bundle
from contracts.chat.call_forms import form_of
from contracts.chat.template import ChatTemplate
from contracts.errors import InputError
from contracts.requests import ChatMessage, GenerateRequest, Tool
from tests.support.tiny_decoder import tiny_bundle

WEATHER = Tool(
    "get_weather",
    "The weather of a city",
    {
        "type": "object",
        "properties": {"days": {"enum": [1, 2]}, "city": {"enum": ["Graz", "Lyon"]}},
        "required": ["days", "city"],
        "additionalProperties": False,
    },
)
TIME = Tool("get-time", "The time")
ASKED = [ChatMessage("user", "what is the weather")]

_LLAMA = (
    "{% if tools %}Respond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.'
    "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}"
    '{{ \'{"name": "\' + f.name + \'", "parameters": \' }}{{ f.arguments | tojson }}{{ "}" }}'
    "{% else %}{{ m.content }}{% endif %}{% endfor %}<assistant>"
)
_MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}[TOOL_CALLS] ["
    "{% for call in m.tool_calls %}{% if call.id | length != 9 %}"
    "{{ raise_exception('ids are of nine letters or digits') }}{% endif %}"
    "{{ (call.function | tojson)[:-1] + ', \"id\": \"' + call.id + '\"}' }}"
    '{{ "]" if loop.last else ", " }}{% endfor %}'
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
_GRANITE = (
    "{% if tools %}Respond with <|tool_call|> followed by a JSON list of the tools used."
    "{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)
_PHI = (
    "{# <|tool_call|> #}{% for message in messages %}<{{ message['role'] }}>"
    "{{ message['content'] }}{% if message['role'] == 'system' and 'tools' in message %}"
    "<|tool|>{{ message['tools'] }}<|/tool|>{% endif %}{% endfor %}<assistant>"
)

FAMILIES = {
    "llama": (_LLAMA, None),
    "mistral": (_MISTRAL, "[TOOL_CALLS]"),
    "granite": (_GRANITE, "<|tool_call|>"),
    "phi": (_PHI, "<|tool_call|>"),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, GenerativeModel]]:
    """A random model of each, whose tag is a special token, as in the real ones."""
    with ExitStack() as stack:
        found = {}
        for name, (template, special) in FAMILIES.items():
            folder = tmp_path_factory.mktemp(name)
            path = tiny_bundle(folder, contexts=(1024,), template=template, special=special)
            found[name] = GenerativeModel(Bundle.open(path))
            stack.callback(found[name].close)
        yield found


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(
        **{"messages": ASKED, "tools": [WEATHER, TIME], "max_tokens": 200, "seed": 1, **fields}
    )


def _check(result: Generated) -> None:
    assert result.finish_reason in ("stop", "length")
    for call in result.tool_calls:
        arguments = json.loads(call.arguments)
        if call.name == "get_weather":
            assert list(arguments) == ["days", "city"] and arguments["city"] in ("Graz", "Lyon")
        else:
            assert (call.name, arguments) == ("get-time", {})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_required_call_goes_and_its_result_comes_back(
    family: str, families: dict[str, GenerativeModel]
) -> None:
    """The call's turn is one that the template takes, ids included."""
    model = families[family]
    for seed in range(3):
        result = model.generate(_request(tool_choice="required", temperature=2, seed=seed))
        assert len(result.tool_calls) >= 1
        _check(result)
    calls = result.tool_calls
    turns = [
        *ASKED,
        ChatMessage("assistant", "", calls),
        *(ChatMessage("tool", "rain", [], call.id) for call in calls),
    ]
    again = model.generate(_request(messages=turns, max_tokens=5))
    assert again.prompt_tokens > result.prompt_tokens


@pytest.mark.parametrize("family", ["mistral", "granite", "phi"])
def test_a_special_token_that_begins_a_call_is_seen(
    family: str, families: dict[str, GenerativeModel]
) -> None:
    """Though texts of answers leave special tokens out; and a list holds several calls."""
    model, tag = families[family], FAMILIES[family][1]
    assert tag is not None
    begins = {str(model.prompts._tokenizer.token_to_id(tag)): 100.0}
    counts = set()
    for seed in range(12):
        pieces: list[str] = []
        request = _request(logit_bias=begins, temperature=2, seed=seed, tools=[TIME])
        result = model.generate(request, pieces.append)
        assert result.text == "".join(pieces) == "" and result.tool_calls
        _check(result)
        counts.add(len(result.tool_calls))
    assert len(counts) > 1
    once = model.generate(_request(logit_bias=begins, parallel_tool_calls=False))
    assert len(once.tool_calls) == 1


def test_json_within_a_text_is_no_call_where_a_call_is_all_of_the_answer(
    families: dict[str, GenerativeModel],
) -> None:
    """The text goes on after what looked like one."""
    model = families["llama"]
    tag = '{"name": "'
    ids = model.prompts._tokenizer.encode(tag, add_special_tokens=False).ids
    first = model.prompts._tokenizer.encode("fox ", add_special_tokens=False).ids

    class Scripted:
        """Says what it is told to, whatever it is asked."""

        prompts, facts, constraints = model.prompts, model.facts, model.constraints

        def __init__(self, parts: list[list[int]]) -> None:
            self.parts = parts

        def answer(self, request: Any, ids: Any, stream: Any, emit: Any, *_: Any) -> Generated:
            said = self.parts.pop(0)
            for token in said:
                emit(stream.push(token))
            emit(stream.finish())
            return Generated(
                text=stream.text, tokens=len(said), finish_reason="stop", prompt_tokens=1,
                bundle="b", first_token_ms=1.0, tokens_per_s=1.0,
            )  # fmt: skip

    pieces: list[str] = []
    scripted: Any = Scripted([[*first, *ids, *first]])
    confidence = Confidence(_request(), pieces.append)
    result = Calling(scripted, _request(), lambda: None, lambda: 0.0, confidence).answer()
    assert result.text == "".join(pieces) == f"fox {tag}fox " and not result.tool_calls


NAMED: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": ["get_weather", "Ann"]}, "parameters": {"enum": [1, 2]}},
    "required": ["name", "parameters"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", [{"json_schema": NAMED}, {"regex": '[{]"name": "(Ann|b)"[}]'}])
def test_an_answer_in_a_format_is_that_or_a_call(
    form: dict[str, Any], family: str, families: dict[str, GenerativeModel]
) -> None:
    """Also where both begin alike, or the tag is a special token; either comes of some seeds."""
    model, tag = families[family], FAMILIES[family][1]
    likely = {} if tag is None else {str(model.prompts._tokenizer.token_to_id(tag)): 3.0}
    called = []
    for seed in range(24):
        pieces: list[str] = []
        request = _request(temperature=3, seed=seed, logit_bias=likely, max_tokens=300, **form)
        result = model.generate(request, pieces.append)
        called.append(bool(result.tool_calls))
        assert "".join(pieces) == result.text
        _check(result)
        if called[-1]:
            assert result.text == ""
        elif "regex" in form:
            assert result.text in ('{"name": "Ann"}', '{"name": "b"}')
        else:
            found = json.loads(result.text)
            assert list(found) == ["name", "parameters"] and found["parameters"] in (1, 2)
    assert set(called) == {True, False}, called


def test_a_call_is_known_by_its_name_where_any_object_may_be_the_answer(
    families: dict[str, GenerativeModel],
) -> None:
    """An object with another name is an answer, and one that is a call is made as it is."""
    model = families["llama"]
    names = []
    for seed in range(24):
        fields: dict[str, Any] = {"temperature": 3, "seed": seed, "max_tokens": 300}
        name = {"name": NAMED["properties"]["name"]}
        any_object = {
            "type": "object", "properties": {**name, "ok": {"type": "boolean"}},
            "required": ["name"], "additionalProperties": False,
        }  # fmt: skip
        result = model.generate(_request(json_schema=any_object, **fields))
        _check(result)
        names += [call.name for call in result.tool_calls] or [json.loads(result.text)["name"]]
    assert set(names) == {"get_weather", "get-time", "Ann"}


def test_tools_that_a_template_leaves_out_are_refused(families: dict[str, GenerativeModel]) -> None:
    """The model would answer without having seen them."""
    hides = ChatTemplate("{% if tools is string %}{{ tools }}{% endif %}<tool_call>")
    with pytest.raises(InputError, match="leaves out the tool get_weather"):
        hides.render(ASKED, [WEATHER])
    shown = families["phi"].prompts.render_chat(ASKED, [WEATHER])
    assert '<|tool|>[{"name": "get_weather"' in shown and shown.endswith("weather<assistant>")


def test_a_template_of_another_form_has_none() -> None:
    """Such a model is refused tools by name of the cause."""
    assert form_of("{{ messages }}<|tool_call_start|>[f(x=1)]<|tool_call_end|>") is None
