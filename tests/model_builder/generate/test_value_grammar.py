"""The grammar of home commands: values are whole words of the sentence."""

from __future__ import annotations

import json

import pytest

from agent.generate.constraint import ConstraintFactory
from contracts.errors import RefusedError
from model_builder.generate.answers import completion
from model_builder.generate.home_commands import sample_commands
from model_builder.generate.judge import Judge
from model_builder.generate.pairs import Pair
from model_builder.generate.value_grammar import answer_phrases, output_grammar
from model_builder.generate.vocabulary import END, train_tokenizer

PROMPT = "turn on the lamp in the attic"


def can_write(grammar: str, answer: str, prompt: str = PROMPT) -> bool:
    """Whether a grammar takes an answer to a prompt, byte by byte."""
    tokenizer = train_tokenizer([PROMPT], 257)
    end = tokenizer.token_to_id(END)
    factory = ConstraintFactory(tokenizer.to_str(), tokenizer.get_vocab_size(), [end])
    constraint = factory.lark(grammar, prompt)
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
    grammar = output_grammar(split.train, split.validation + split.train[:100])
    assert "|downstairs|" in grammar  # closed lists of values are cut alike, too
    for pair in split.train[:150]:
        constraint = factory.lark(grammar, pair.prompt)
        ids = tokenizer.encode(pair.completion, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == pair.completion
        at = 0
        while at < len(ids):
            forced = list(constraint._matcher.compute_ff_tokens())
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


def lights(key: str, values: list[str]) -> list[Pair]:
    """A pair for each value of a slot."""
    return [Pair(PROMPT, completion("HassLightSet", {key: value})) for value in values]


@pytest.mark.parametrize(
    ("trained", "validated", "value", "allowed"),
    [
        (["red", "blue"], ["red"] * 5, "lamp", False),  # a colour is none but the known
        (["lamp", "blue"], ["blue"] * 5, "lamp", True),
        (["red", "blue"], ["red"] * 4, "lamp", True),  # too little was seen to say so
        (["red", "blue"], ["red"] * 4 + ["pink"], "lamp", True),  # new ones are to be expected
        (["30", "40"], ["77"] * 5, "lamp", False),
        (["a/b", "c.e", "la.p"], ["a/b"] * 5, "lamp", False),  # no letter is a pattern
    ],
)
def test_a_slot_with_a_closed_list_takes_no_other_words(
    trained: list[str], validated: list[str], value: str, allowed: bool
) -> None:
    """What validation shows of a slot decides whether unknown words may fill it."""
    grammar = output_grammar(lights("color", trained), lights("color", validated))
    assert can_write(grammar, completion("HassLightSet", {"color": value})) == allowed


def rooms(others: int) -> list[Pair]:
    """Many sentences about areas that are made up; `others` of 700 have no "the" in them."""
    areas = [f"zorb{i} room" for i in range(700)]
    texts = [f"{'lamp' if i < others else 'the'} in {area}" for i, area in enumerate(areas)]
    return [
        Pair(text, completion("HassTurnOn", {"area": area}))
        for text, area in zip(texts, areas, strict=True)
    ]


@pytest.mark.parametrize(
    ("pairs", "area", "allowed"),
    [
        (rooms(0), "attic", True),
        (rooms(0), "the attic", False),
        (rooms(0), "in", False),
        (rooms(0), "lamp in", False),
        (rooms(0), "lamp in the attic", True),  # within it any word may stand
        (rooms(690), "the attic", True),  # a rare word may begin the next
        (rooms(0)[:400], "the attic", True),  # of few values nothing is known
    ],
)
def test_no_value_begins_or_ends_with_what_every_sentence_is_full_of(
    pairs: list[Pair], area: str, allowed: bool
) -> None:
    """Unless a value of training does."""
    answer = completion("HassTurnOn", {"area": area})
    assert can_write(output_grammar(pairs), answer) == allowed
    begins = [Pair("the lamp", completion("HassTurnOn", {"area": "the lamp"}))]
    ends = [Pair("lamp in", completion("HassTurnOn", {"area": "lamp in"}))]
    assert can_write(output_grammar(pairs + begins + ends), answer) == (area != "in" or allowed)


@pytest.mark.parametrize(
    ("value", "allowed"), [("9400", True), ("9400k", True), ("94", False), ("k", True)]
)
def test_a_number_is_a_word_though_a_unit_follows(value: str, allowed: bool) -> None:
    """As in "to 9400k"; a part of a number is none."""
    grammar = output_grammar(lights("temperature", ["9400"]))
    answer = completion("HassLightSet", {"temperature": value})
    assert can_write(grammar, answer, "set the lamp to 9400k") == allowed


def test_a_slot_may_have_any_name() -> None:
    """One that is no name of a rule, or differs from another by its case alone."""
    slots = {"light-level": "lamp", "Area": "attic", "area": "the attic"}
    answer = completion("HassTurnOn", slots)
    assert can_write(output_grammar([Pair(PROMPT, answer)]), answer)


@pytest.mark.parametrize("value", [" lamp", "lamp ", "", " "])
def test_a_value_has_no_space_at_its_ends(value: str) -> None:
    """Nor is it empty."""
    grammar = output_grammar(lights("name", ["lamp"]))
    assert not can_write(grammar, completion("HassLightSet", {"name": value}))


@pytest.mark.parametrize(
    ("text", "values", "intents"),
    [
        ("adjust the zorb temperature to 20", {"zorb"}, 2),  # an area, or a thermostat
        ("adjust the temperature in the zorb to 20", {"zorb"}, 1),
        # "zorb quux" may be one name.
        ("turn off the zorb quux", {"zorb", "quux"}, 2),
        ("turn off the zorb my quux", {"zorb", "quux"}, 1),
    ],
)
def test_hassil_decides_what_an_unknown_value_may_be(
    text: str, values: set[str], intents: int
) -> None:
    """A sentence with two parses has two answers."""
    assert len(Judge("en").parses(text, values)) == intents


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
