"""What people say and no template has."""

from __future__ import annotations

import json
import random

from model_builder.data import home
from model_builder.generate.home_commands import _SlotWalker
from model_builder.generate.spoken import sample_spoken, spoken


def _walker() -> _SlotWalker:
    intents = home.load_intents("en")
    return _SlotWalker(intents.expansion_rules, intents.slot_lists, home.houses()["en"])


def test_spoken_sentences_hold_their_values_and_never_another_pairs_words() -> None:
    """Each value stands in its sentence; a sentence that is taken keeps its answer."""
    taken = "lights out everywhere"
    owner = {taken: "of the test split"}
    train, spared = sample_spoken("en", 1500, _walker(), owner, random.Random(1))
    assert len(train) + len(spared) == 1500
    assert taken not in {pair.prompt for pair in (*train, *spared)}
    assert not {pair.group for pair in train} & {pair.group for pair in spared}
    for pair in (*train, *spared):
        for value in json.loads(pair.completion)["slots"].values():
            assert value in pair.prompt


def test_every_way_to_say_an_intent_can_be_said() -> None:
    """No list or rule is named that the templates do not have; each intent is theirs."""
    from hassil.parse_expression import parse_sentence

    said, walker, rng = spoken("en"), _walker(), random.Random(2)
    assert said is not None
    known = home.load_intents("en").intents
    for way in said.ways:
        assert way.intent in known, way.intent
        for text in (*way.ask, *way.say):
            walker.begin(testing=False)
            words = walker.expand(parse_sentence(text).expression, tuple(way.domain), rng)
            assert words, text


def test_a_language_of_which_nothing_is_known_gives_no_sentences() -> None:
    """Its templates are all there is."""
    assert sample_spoken("de", 100, _walker(), {}, random.Random(1)) == ([], [])
