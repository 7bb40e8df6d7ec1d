"""Other ways to say a command keep what it means."""

from __future__ import annotations

import random

import pytest

from model_builder.generate.rephrase import (
    Rephraser,
    mark,
    phrases_of,
    slots_of,
    unmarked,
)

JOINING = ("the", "my", "in", "of", "to", "by", "from")
SECONDS = f"decrease my {mark('start_minutes', '85')}-minutes timer by {mark('seconds', '82')}s"
MINUTES = f"decrease {mark('start_minutes', '9')} minute timer by {mark('minutes', '7')} minutes"
KITCHEN = f"pause the music in the {mark('area', 'kitchen')}"
CELLAR = f"pause {mark('floor', 'cellar')} music"


@pytest.mark.parametrize(
    ("sentence", "phrases"),
    [
        (KITCHEN, ["pause the music", "in the kitchen"]),
        (SECONDS, ["decrease", "my 85-minutes timer", "by 82s"]),
        (CELLAR, ["pause", "cellar", "music"]),
        (
            f"take {mark('hours', '3')} hour {mark('minutes', '4')} minutes from my timer",
            ["take", "3 hour", "4 minutes", "from my timer"],
        ),
        (
            f"is {mark('area', 'guest room')} fan {mark('state', 'off')}",
            ["is", "guest room", "fan", "off"],
        ),
    ],
)
def test_a_value_keeps_the_words_that_belong_to_it(sentence: str, phrases: list[str]) -> None:
    """Articles and prepositions before it, and the unit after a number."""
    found = phrases_of(sentence, frozenset(JOINING))
    assert [unmarked(" ".join(phrase.words)) for phrase in found] == phrases


def others(intent: str, sentence: str, said: list[tuple[str, str]]) -> set[str]:
    """Many other ways to say one of the sentences."""
    rephraser = Rephraser(said, JOINING)
    rng = random.Random(1)
    return {rephraser.other(intent, sentence, rng) for _ in range(800)}


def test_phrases_move_and_values_stay_whole() -> None:
    """Each value stands in the sentence, under its slot, wherever its phrase went."""
    found = others("Light", f"turn on {mark('name', 'desk lamp')} please", [])
    assert f"{mark('name', 'desk lamp')} turn on please" in found
    assert {tuple(slots_of(marked).items()) for marked in found} == {(("name", "desk lamp"),)}
    assert all("desk lamp" in unmarked(marked) for marked in found)


def test_places_are_exchanged_put_in_and_left_out() -> None:
    """An intent that knows areas and floors is said of either, and of none."""
    said = [("Pause", KITCHEN), ("Pause", CELLAR)]
    slots = {tuple(slots_of(marked).items()) for marked in others("Pause", KITCHEN, said)}
    assert slots == {(("area", "kitchen"),), (("floor", "cellar"),), ()}


def test_a_place_that_the_intent_does_not_know_is_never_put_in() -> None:
    """A slot of other intents would be one that the grammar forbids."""
    said = [("Pause", KITCHEN), ("Light", f"turn on {mark('name', 'lamp')}")]
    found = others("Light", said[1][1], said)
    assert all(set(slots_of(marked)) == {"name"} for marked in found)


def test_numbers_exchange_their_units_within_their_kind() -> None:
    """Seconds become minutes where both follow "by"; the timer's own length does not."""
    said = [("Less", SECONDS), ("Less", MINUTES)]
    kinds = {frozenset(slots_of(marked)) for marked in others("Less", SECONDS, said)}
    assert kinds == {
        frozenset({"start_minutes", "seconds"}),
        frozenset({"start_minutes", "minutes"}),
    }


def test_a_number_never_becomes_the_length_of_the_timer() -> None:
    """The amount and the timer's own length stay apart where no word tells them apart."""
    sentence = f"take {mark('seconds', '5')} seconds {mark('start_hours', '2')} hour timer"
    other = f"take {mark('hours', '7')} hours {mark('start_minutes', '4')} minute timer"
    found = others("Less", sentence, [("Less", sentence), ("Less", other)])
    lengths = [[slot for slot in slots_of(m) if slot.startswith("start_")] for m in found]
    assert {tuple(listed) for listed in lengths} == {("start_hours",), ("start_minutes",)}


def test_two_values_never_touch() -> None:
    """Nobody could say where "zorb quux" is cut."""
    sentence = f"turn on {mark('name', 'zorb')} in the {mark('area', 'quux')}"
    bare = f"{mark('area', 'hall')} lamp on"
    found = {unmarked(m) for m in others("Light", sentence, [("Light", sentence), ("Light", bare)])}
    assert "turn on zorb in the quux" in found and "zorb turn on in the quux" in found
    assert not {text for text in found if "zorb hall" in text or "hall zorb" in text}
    assert "in the quux zorb turn on" not in found


def test_joining_words_alone_are_left_out_and_not_before_a_name() -> None:
    """What stands before a place says that it is one."""
    sentence = f"pause the music in the {mark('area', 'kitchen')}"
    found = {unmarked(marked) for marked in others("Pause", sentence, [])}
    assert found == {
        "pause the music in the kitchen",
        "in the kitchen pause the music",
        "pause music in the kitchen",
        "in the kitchen pause music",
    }
