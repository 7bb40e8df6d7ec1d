"""The grammar of home commands: values are whole words of the sentence."""

from __future__ import annotations

import json

import pytest

from agent.generate.constraint import ConstraintFactory
from contracts import codec
from contracts.errors import RefusedError
from model_builder.generate.home_commands import (
    Judge,
    answer_phrases,
    completion,
    output_grammar,
    sample_commands,
)
from model_builder.generate.pairs import Pair
from model_builder.generate.vocabulary import END, train_tokenizer

PROMPT = "turn on the lamp in the attic"


def can_write(grammar: str, answer: str) -> bool:
    """Whether a grammar takes an answer to `PROMPT`, byte by byte."""
    tokenizer = train_tokenizer([PROMPT], 257)
    end = tokenizer.token_to_id(END)
    factory = ConstraintFactory(tokenizer.to_str(), tokenizer.get_vocab_size(), [end])
    constraint = factory.lark(grammar.replace("@PROMPT@", codec.encode(PROMPT).decode()))
    try:
        for token in tokenizer.encode(answer, add_special_tokens=False).ids:
            constraint.accept(token)
    except RefusedError:
        return False
    return constraint.complete


@pytest.mark.parametrize(
    ("area", "allowed"),
    [("attic", True), ("the attic", True), ("tic", False), ("att", False), ("cellar", False)],
)
def test_a_value_is_made_of_whole_words_of_the_sentence(area: str, allowed: bool) -> None:
    """A piece of a word, or a word that nobody said, cannot be written."""
    answer = completion("HassTurnOn", {"area": area})
    assert can_write(output_grammar([Pair(PROMPT, answer, "g")]), answer) == allowed


def test_the_grammar_lets_every_answer_be_cut_as_in_training() -> None:
    """What it forces and what it allows are the tokens that the student learnt."""
    split = sample_commands("en", 1200, 40, 1)
    phrases = answer_phrases(split.train)
    tokenizer = train_tokenizer([pair.prompt + "\n" for pair in split.train], 768, phrases)
    end = tokenizer.token_to_id(END)
    factory = ConstraintFactory(tokenizer.to_str(), tokenizer.get_vocab_size(), [end])
    grammar = output_grammar(split.train)
    for pair in split.train[:150]:
        constraint = factory.lark(grammar.replace("@PROMPT@", codec.encode(pair.prompt).decode()))
        ids = tokenizer.encode(pair.completion, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == pair.completion
        at = 0
        while at < len(ids):
            forced = constraint.forced()
            assert forced == ids[at : at + len(forced)], pair
            assert constraint.allowed()[ids[at]], pair
            for token in forced or ids[at : at + 1]:
                constraint.accept(token)
                at += 1
        assert constraint.complete


@pytest.mark.parametrize(
    ("slots", "allowed"),
    [
        ({"area": "attic", "name": "lamp"}, True),
        ({"area": "attic", "floor": "attic", "name": "lamp"}, True),
        ({"name": "lamp", "area": "attic"}, False),
        ({"floor": "attic", "area": "attic"}, False),
        ({"area": "attic", "brightness": "lamp"}, False),
    ],
)
def test_an_intent_has_its_own_slots_once_and_in_order(
    slots: dict[str, str], allowed: bool
) -> None:
    """A slot of another intent, or one out of order, cannot be written."""
    known = [
        Pair(PROMPT, completion("HassTurnOn", {"area": "attic", "floor": "attic", "name": "lamp"})),
        Pair(PROMPT, completion("HassLightSet", {"area": "attic", "brightness": "lamp"})),
    ]
    answer = json.dumps({"intent": "HassTurnOn", "slots": slots}, separators=(",", ":"))
    assert can_write(output_grammar(known), answer) == allowed


@pytest.mark.parametrize(
    ("text", "values", "intents"),
    [
        ("adjust the zorb temperature to 20", {"zorb"}, 2),  # an area, or a thermostat
        ("adjust the temperature in the zorb to 20", {"zorb"}, 1),
    ],
)
def test_hassil_decides_what_an_unknown_value_may_be(
    text: str, values: set[str], intents: int
) -> None:
    """A sentence with two parses has two answers."""
    answers = Judge("en").parses(text, values)
    assert len(answers) == intents
    assert completion("HassClimateSetTemperature", {"area": "zorb", "temperature": "20"}) in answers


def test_no_test_sentence_with_an_area_or_a_name_has_two_answers() -> None:
    """The split leaves out what nobody could tell who does not know the value."""
    judge = Judge("en")
    known = {"area", "name", "floor", "brightness", "temperature", "position", "volume_level"}
    judged = 0
    for pair in sample_commands("en", 300, 250, 1).test:
        slots = json.loads(pair.completion)["slots"]
        values = {slots[key] for key in ("area", "name") if key in slots}
        if values and set(slots) <= known:
            judged += 1
            assert judge.parses(pair.prompt, values) == {pair.completion}
    assert judged > 20
