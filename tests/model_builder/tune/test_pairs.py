"""What a fine-tuning learns from and is measured on: chats, lists in files, other words."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from contracts import codec
from contracts.errors import InputError
from model_builder.generate.pairs import Pair
from model_builder.generate.source import load_pretrained
from tests.model_builder.tune.test_build import PAIRS, _recipe, _written


@pytest.mark.parametrize("form", ["openai", "sharegpt"])
def test_chats_in_both_forms_give_a_pair_for_each_answer(tmp_path: Path, form: str) -> None:
    """What was said before stands in the prompt, as the base's template renders it."""
    from model_builder.tune.chat import frame_of
    from model_builder.tune.data import chat_of, read_chats

    _written(tmp_path)
    said = [("user", "the fox"), ("assistant", "dog"), ("user", "over"), ("assistant", "lazy")]
    names = {"user": "human", "assistant": "gpt"}
    row: dict[str, object] = {"messages": [{"role": r, "content": t} for r, t in said]}
    if form == "sharegpt":
        row = {"conversations": [{"from": names[r], "value": t} for r, t in said]}
    path = tmp_path / "chats.jsonl"
    path.write_bytes(codec.encode(row) + b"\n")
    first, second = read_chats(path)
    assert (first.prompt, first.completion, second.completion) == ("the fox", "dog", "lazy")
    chat = chat_of(second.prompt)
    assert chat is not None
    assert [m.content for m in chat.messages] == ["the fox", "dog", "over"]
    pretrained = load_pretrained(str(tmp_path / "base.gguf"))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(pretrained.tokenizer_json)
    frame = frame_of(pretrained, tokenizer, "")
    text = tokenizer.decode(frame.ids(tokenizer, second.prompt), skip_special_tokens=False)
    assert text == "<user>the fox\n<assistant>dog\n<user>over\n<assistant>"


@pytest.mark.parametrize("chats", [True, False])
def test_a_list_in_a_json_file_is_read_and_of_several_answers_the_first_is_taken_if_asked(
    tmp_path: Path, chats: bool
) -> None:
    """Published chats come as one list, and answer a few prompts twice; the error counts them."""
    from model_builder.tune.data import load

    recipe, _ = _recipe(_written(tmp_path))
    said = [*PAIRS, ("the fox", "dog"), ("the dog", "fox")]
    rows: list[object] = [{"prompt": p, "completion": c} for p, c in said]
    if chats:
        turns = [[{"from": "human", "value": p}, {"from": "gpt", "value": c}] for p, c in said]
        rows = [{"conversations": each} for each in turns]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    data = msgspec.structs.replace(recipe.data, path="pairs.json")
    recipe = msgspec.structs.replace(recipe, data=data)
    with pytest.raises(InputError, match=r"row 13: the prompt of row 1 .*\(1 more rows.*first"):
        load(recipe, tmp_path)
    data = msgspec.structs.replace(data, repeated="first")
    split, _ = load(msgspec.structs.replace(recipe, data=data), tmp_path)
    pairs = [(p.prompt, p.completion) for p in (*split.train, *split.validation, *split.test)]
    assert sorted(pairs) == sorted(PAIRS)
    (tmp_path / "pairs.json").write_text(json.dumps({"rows": rows}))
    with pytest.raises(InputError, match="expected a list of rows"):
        load(recipe, tmp_path)


def _called(name: str, arguments: object) -> dict[str, object]:
    """An answer that calls a tool, as OpenAI writes it."""
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, "at least one turn"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no answer"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "follows no message"),
        ({"messages": [{"role": "pilot", "content": "a"}]}, "'pilot'"),
        ({"conversations": [{"from": "gpt", "value": "a"}], "label": False}, "judged bad"),
        ({"messages": [{"role": "user", "content": "<image>a"}], "images": ["1.jpg"]}, "images"),
        ({"conversations": [{"from": "human", "value": 3}]}, "expected the text"),
        ({"messages": [{"role": "user", "content": "a"}, _called("lamp", "{}")]}, "call of lamp"),
        (
            {"messages": [{"role": "user", "content": "a"}, _called("lamp", "[1]")], "tools": []},
            "no JSON object",
        ),
        (
            {
                "messages": [{"role": "user", "content": "a"}, _called("lamp", "{}")],
                "tools": [{"name": "la mp"}],
            },
            "a tool cannot be used",
        ),
    ],
)
def test_a_broken_chat_is_refused_with_its_row(tmp_path: Path, row: object, words: str) -> None:
    """The message names the row and what was expected."""
    from model_builder.tune.data import read_chats

    path = tmp_path / "chats.jsonl"
    path.write_bytes(codec.encode(row) + b"\n")
    with pytest.raises(InputError, match=f"row 1: .*{words}"):
        read_chats(path)


def test_shifted_prompts_keep_the_words_of_their_answers() -> None:
    """Three rules, each changes the prompt; what is in the answer stands in it still."""
    from model_builder.generate.pairs import Pair
    from model_builder.tune.shift import shifted

    pairs = [Pair(f"turn the lamp {n} on in attic", f'{{"area": "attic", "n": "{n}"}}') for n in
             range(12)]  # fmt: skip
    made = shifted(pairs, 1)
    assert {rule for rule, _ in made} == {"paraphrase", "other words", "typo"}
    for (_, pair), before in zip(made, pairs, strict=True):
        assert pair.prompt != before.prompt
        assert pair.completion == before.completion
        assert "attic" in pair.prompt


def test_chats_are_shown_examples_and_are_said_in_other_words_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenAI's files hold: all that was said before stays, the last message is changed."""
    from model_builder.tune import compare
    from model_builder.tune.data import chat_of, read_chats
    from model_builder.tune.shift import last_said, shifted

    rows = [
        {"messages": [{"role": "system", "content": "Be brief."},
                      {"role": "user", "content": f"what is the price of {what}"},
                      {"role": "assistant", "content": f"{what}: 3"}]}
        for what in ("bread", "cake", "milk", "buns", "rolls", "tea")
    ]  # fmt: skip
    (tmp_path / "chats.jsonl").write_bytes(b"".join(codec.encode(row) + b"\n" for row in rows))
    pairs = read_chats(tmp_path / "chats.jsonl")
    made = shifted(pairs, 1)
    assert {rule for rule, _ in made} == {"paraphrase", "other words", "typo"}
    for (_, pair), before in zip(made, pairs, strict=True):
        old, new = chat_of(before.prompt), chat_of(pair.prompt)
        assert old is not None
        assert new is not None
        assert new.messages[:-1] == old.messages[:-1]
        assert new.messages[-1].content != old.messages[-1].content
        assert before.completion.split(":")[0] in new.messages[-1].content
    assert all(map(compare.is_example, pairs))
    asked: list[str] = []
    monkeypatch.setattr(compare, "run_generator", lambda _, prompts, __: asked.extend(prompts))
    way = compare.Way("base", tmp_path, tuple(pairs[:2]))
    way.answers([pairs[2], Pair("plain", "x")], 8, lambda prompt: prompt)
    chat = chat_of(asked[0])
    assert chat is not None
    roles = [message.role for message in chat.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [m.content for m in chat.messages[3:]] == [
        last_said(pairs[1].prompt), pairs[1].completion, last_said(pairs[2].prompt)
    ]  # fmt: skip
    assert asked[1].startswith("what is the price of bread\nbread: 3\n\n")


def test_a_report_warns_where_other_words_cost_much() -> None:
    """From ten points of exact match on."""
    from model_builder.generate.pairs import Pair
    from model_builder.tune.compare import score, warnings

    scores = {"a": {"exact_match": 0.98}, "b": {"exact_match": 0.7}, "c": {"exact_match": 0.9}}
    (text,) = warnings(scores, "a", ("b", "c"))
    assert "98% on held-out pairs to 70% on b" in text
    found = score([Pair("x", '{"a":1,"b":{"c":2}}')], ['{"a":1,"b":{"c":3}}'])
    assert (found.exact_match, found.valid_json, found.field_f1) == (0, 1, 0.5)


GEMINI = {
    "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "what is "}, {"text": "the price"}]},
        {"role": "model", "parts": [{"text": "3"}]},
    ],
}
TURNS = {
    "prompt": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what is the price"},
    ],
    "completion": [{"role": "assistant", "content": "3"}],
}


@pytest.mark.parametrize("row", [GEMINI, TURNS, {**TURNS, "label": True}])
def test_chats_of_other_services_are_the_same_chats(tmp_path: Path, row: object) -> None:
    """As Vertex AI and TRL document them: equal to OpenAI's form of the same."""
    from model_builder.tune.data import _is_chat, read_chats

    told = [*TURNS["prompt"], *TURNS["completion"]]
    (tmp_path / "a.jsonl").write_bytes(codec.encode({"messages": told}) + b"\n")
    (tmp_path / "b.jsonl").write_bytes(codec.encode(row) + b"\n")
    assert _is_chat(tmp_path / "b.jsonl")
    assert read_chats(tmp_path / "b.jsonl") == read_chats(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preferences .*under chosen"),
        ({"chosen": [{"role": "user"}], "rejected": []}, "preferences"),
        (
            {"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []},
            "preferences .*under preferred_output",
        ),
        ({"prompt": "a", "completion": "b", "label": False}, "judged bad"),
        ({"text": "<s>[INST] a [/INST] b"}, "no prompt: expected prompt and .*found text"),
        ({"input_ids": [1, 2]}, "no prompt: .*found input_ids"),
        ({"prompt": 3, "completion": "a"}, "prompt: expected text, found a whole number"),
        (
            {"contents": [{"role": "user", "parts": [{"fileData": {}}]}]},
            "a part with fileData: only texts",
        ),
        ({**TURNS, "label": False}, "judged bad"),
    ],
)
def test_rows_of_other_kinds_of_training_are_refused_by_their_name(
    tmp_path: Path, row: object, words: str
) -> None:
    """In one line, with what to write; a bad answer is never learnt."""
    from model_builder.tune.data import load

    (tmp_path / "rows.jsonl").write_bytes(codec.encode(row) + b"\n")
    recipe, _ = _recipe(_written(tmp_path))
    data = msgspec.structs.replace(recipe.data, path="rows.jsonl")
    with pytest.raises(InputError, match=f"row 1: .*{words}"):
        load(msgspec.structs.replace(recipe, data=data), tmp_path)
