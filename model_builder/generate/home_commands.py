"""Home commands: a sentence -> ``{"intent": ..., "slots": {...}}``.

The sentences are random walks over Home Assistant's templates as hassil parsed them; the slots
are the words that fill the template's lists, as they stand in the sentence. The test split has
templates and slot values that training never saw.

A sentence with a value that nobody knows may have several answers: "adjust the X temperature to
20" is said of an area and of a device. hassil itself decides what is ambiguous: a sentence with
an unknown value stays only if hassil, told the values but not what each one is, finds one parse.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from hassil.expression import Expression, ListReference
from hassil.intents import TextSlotList
from hassil.util import normalize_whitespace

from model_builder.data import home
from model_builder.generate.answers import completion
from model_builder.generate.inventor import NONE_RESPELT, Inventor, Respelt, prose_words
from model_builder.generate.judge import FREE, Judge
from model_builder.generate.pairs import Pair, Split
from model_builder.generate.rephrase import Rephraser, mark, slots_of, unmarked
from model_builder.generate.spoken import sample_spoken

_TRIES = 20
_MADE_UP = 0.85
"""Share of free values that are made-up words while training, so that copying is learnt. A
pretrained model can copy: it is to learn the commands."""

_FIRST = 1000
"""Sentences that free text is cut out of."""

_SENTENCE = 1.8
"""Words of a list's values, in the mean, from which on they are free text and not names."""

_LOOKS_AT_TEMPLATE = 40
_UNSEEN = 600
"""Sentences that those with values never seen are taken from: half of them have any."""

_TEST_SHARE = 0.1
_TESTED = "of the test split"
_VALIDATION_SHARE = 0.03


class _Template(msgspec.Struct, frozen=True):
    """One sentence template of an intent."""

    intent: str
    group: str
    expression: Any
    domains: tuple[str, ...]
    walker: Any


class _Said(msgspec.Struct, frozen=True):
    """A pair, its intent, and its sentence with the values marked."""

    pair: Pair
    intent: str
    marked: str


class _SlotWalker(home._Walker):  # the same walk; this one remembers what fills each list
    """Expands a template and keeps the slots.

    Attributes:
        slots: of the expansion at work.
        free: the values among them that a household chooses.
        unknown: whether one of those is made up or held from training.
        testing: whether values are to be those held from training.
        made_up: share of free values that are.
        held: values that training must not see.
        names, texts: make up areas and names, by list, and free text; None: nothing is made up.
    """

    def __init__(self, rules: Any, lists: Any, house: home.House) -> None:
        super().__init__(rules, lists, house)
        self.testing = False
        self.made_up = _MADE_UP
        self.held: set[str] = set()
        self.names: dict[str, Inventor] = {}
        self.texts: Inventor | None = None
        self.begin(testing=False)

    def begin(self, *, testing: bool) -> None:
        """Forgets the last expansion."""
        self.testing, self.unknown = testing, False
        self.slots: dict[str, str] = {}
        self.free: set[str] = set()

    def expand(self, node: Expression, domains: tuple[str, ...], rng: random.Random) -> str | None:
        """As the base class; a list's value is noted under its slot's name."""
        if isinstance(node, ListReference):
            value = self._slot_value(node, domains, rng)
            if value is None:
                return None
            spoken = normalize_whitespace(value).strip()
            if node.slot_name in self.slots and self.slots[node.slot_name] != spoken:
                return None  # two values for one slot: nobody could say which is meant
            self.slots[node.slot_name] = spoken
            return f"{node.prefix or ''}{mark(node.slot_name, spoken)}{node.suffix or ''}"
        return super().expand(node, domains, rng)

    def _slot_value(
        self, node: ListReference, domains: tuple[str, ...], rng: random.Random
    ) -> str | None:
        if node.list_name not in FREE and node.list_name not in self.house.wildcards:
            return self._value(node, domains, rng)
        value = self._free_value(node, domains, rng)
        if value is not None:
            self.free.add(normalize_whitespace(value).strip())
        return value

    def _free_value(
        self, node: ListReference, domains: tuple[str, ...], rng: random.Random
    ) -> str | None:
        if not self.testing and self.texts and rng.random() < self.made_up:
            self.unknown = True
            named = self.names.get(node.list_name)
            made = named.name(rng) if named else self.texts.text(rng)
            return None if made in self.held else made
        for _ in range(20):
            value = self._value(node, domains, rng)
            if value is None or (value in self.held) == self.testing:
                self.unknown = self.unknown or self.testing
                return value
        return None


def _templates(language: str, house: home.House) -> list[_Template]:
    intents = home.load_intents(language)
    found = []
    for name, intent in sorted(intents.intents.items()):
        for block, data in enumerate(intent.data):
            rules = {**intents.expansion_rules, **(data.expansion_rules or {})}
            lists = {**intents.slot_lists, **(data.slot_lists or {})}
            walker = _SlotWalker(rules, lists, house)
            found += [
                _Template(
                    name, f"{name}/{block}/{i}", sentence.expression, home._domains(data), walker
                )
                for i, sentence in enumerate(data.sentences)
            ]
    return found


def _listed_words(templates: list[_Template], rng: random.Random) -> list[str]:
    """Words of the values that the templates list themselves: kinds of devices, colours."""
    values = []
    for listed, walker in {
        id(listed): (listed, template.walker)
        for template in templates
        for listed in template.walker.lists.values()
        if isinstance(listed, TextSlotList)
    }.values():
        values += [walker.expand(value.text_in, (), rng) or "" for value in listed.values]
    return [word for word in _words(values) if word.isalpha()]


def sample_commands(
    language: str,
    sentences: int,
    test: int,
    seed: int,
    rephrased: float = 0.0,
    spoken: float = 0.0,
    invented: float = _MADE_UP,
    respelt: Respelt = NONE_RESPELT,
    *,
    unseen: bool = False,
) -> Split:
    """Distinct sentences with their JSON; the test split has unseen templates and values.

    Args:
        language: for example ``en``.
        sentences: to train with.
        test: to measure with.
        seed: same seed, same pairs.
        rephrased: other ways to say them, by share of `sentences`, to train with too.
        spoken: what people say and no template has, by share of `sentences`, likewise.
        invented: share of free values that are made-up words while training.
        respelt: what those are made of besides.
        unseen: validation has a house, too, of which training sees neither values nor words.

    Raises:
        InputError: ``unknown-language``.
    """
    rng = random.Random(seed)
    house = home.houses().get(language, home.houses()["en"])
    values = home.free_values(house)
    held = set(rng.sample(values, max(1, len(values) // 5)))
    unseen_house = home.houses("unseen.yaml").get(language) if unseen else None
    held |= set(home.free_values(unseen_house)) if unseen_house else set()
    templates = _templates(language, house)
    by_intent: dict[str, list[_Template]] = {}
    for template in templates:
        template.walker.held, template.walker.made_up = held, invented
        by_intent.setdefault(template.intent, []).append(template)
    for_test: list[_Template] = []
    seen: list[_Template] = []
    for listed in by_intent.values():
        rng.shuffle(listed)
        held_back = _held_back(listed, rng)
        for_test += held_back
        seen += [template for template in listed if template not in held_back]
    owner: dict[str, str] = {}
    judge = Judge(language)
    _invent(templates, seen, language, held, judge, rng, respelt)
    trained = _walk(seen, sentences, owner, judge, rng, testing=False)
    tested = _walk(for_test, test, owner, judge, rng, testing=True)
    spared = int(len(trained) * _VALIDATION_SHARE)
    pairs = [said.pair for said in trained]
    for said in tested:
        owner[said.pair.prompt] = _TESTED
    more = _rephrased(trained[spared:], int(sentences * rephrased), house.joining, owner, rng)
    intents = home.load_intents(language)
    walker = _SlotWalker(intents.expansion_rules, intents.slot_lists, house)
    walker.held, walker.made_up = held, invented
    walker.names, walker.texts = templates[0].walker.names, templates[0].walker.texts
    others, kept = sample_spoken(language, int(sentences * spoken), walker, owner, rng)
    stopped_by = pairs[:spared] + kept
    if unseen_house:
        stopped_by += _of_unseen_values(language, seen, unseen_house, owner, judge, rng)
    return Split(pairs[spared:] + more + others, stopped_by, [said.pair for said in tested])


def _of_unseen_values(
    language: str,
    seen: list[_Template],
    house: home.House,
    owner: dict[str, str],
    judge: Judge,
    rng: random.Random,
) -> list[Pair]:
    """Pairs of known templates with values of a house never seen, to validate with."""
    values = set(home.free_values(house))
    first = home.houses()[language]  # floors are a closed list
    house = msgspec.structs.replace(house, floor=first.floor, joining=first.joining)
    known = {template.group for template in seen}
    templates = [t for t in _templates(language, house) if t.group in known]
    for template in templates:
        template.walker.held = values
    said = _walk(templates, _UNSEEN, owner, judge, rng, testing=True)
    more = _rephrased(said, len(said) // 2, house.joining, owner, rng)
    pairs = {pair.prompt: pair for pair in (*(one.pair for one in said), *more)}.values()
    return [pair for pair in pairs if any(f'"{value}"' in pair.completion for value in values)]


def _invent(
    templates: list[_Template],
    seen: list[_Template],
    language: str,
    held: set[str],
    judge: Judge,
    rng: random.Random,
    respelt: Respelt,
) -> None:
    """Gives the templates what makes values up."""
    house = home.houses().get(language, home.houses()["en"])
    named = {"area": house.area, "name": [n for listed in house.names.values() for n in listed]}
    short = {
        kind: known
        for kind, known in house.wildcards.items()
        if statistics.mean(len(value.split()) for value in known) < _SENTENCE
    }
    lists = {kind: set(known) - held for kind, known in (named | short).items()}
    free = {value for known in house.wildcards.values() for value in known} - held
    words = set(_words(lists["area"] | lists["name"])) - set(house.joining)
    # Any word may be a name; the garage is also where a door is.
    others = sorted(set(_listed_words(templates, rng)) - set(house.joining))

    def give(words: set[str], sentences: list[str], new: Respelt = NONE_RESPELT) -> None:
        names = {kind: Inventor(known, words, others, respelt=new) for kind, known in lists.items()}
        texts = Inventor(free, words | set(_words(free)), sentences=sentences, respelt=new)
        for template in templates:
            template.walker.names, template.walker.texts = names, texts

    give(words, [])
    said = [s.pair.prompt for s in _walk(seen, _FIRST, {}, judge, rng, testing=False)]
    told = {*_words(said), *_words(held)}
    new = respelt._replace(words=[word for word in respelt.words if word not in told])
    give(words | (prose_words(language) - told), said, new)


def _held_back(templates: list[_Template], rng: random.Random) -> list[_Template]:
    """Templates of one intent that training must not see.

    Each set of slots that they fill is filled by a template that stays: that an intent takes an
    area at all is not to be guessed.
    """
    wanted = int(len(templates) * _TEST_SHARE + 0.5) if len(templates) > 3 else 0
    fills = [_fills(template, rng) for template in templates]
    left = Counter(slots for sets in fills for slots in sets)
    found: list[_Template] = []
    for template, sets in zip(templates, fills, strict=True):
        if len(found) < wanted and sets and all(left[slots] > 1 for slots in sets):
            found.append(template)
            left.subtract(sets)
    return found


def _fills(template: _Template, rng: random.Random) -> set[frozenset[str]]:
    """The sets of slots that a template's sentences fill."""
    found = set()
    for _ in range(_LOOKS_AT_TEMPLATE):
        template.walker.begin(testing=False)
        if template.walker.expand(template.expression, template.domains, rng) is not None:
            found.add(frozenset(template.walker.slots))
    return found


def _words(values: Iterable[str]) -> list[str]:
    return sorted({word for value in values for word in value.split()})


def _rephrased(
    said: list[_Said],
    wanted: int,
    joining: Sequence[str],
    owner: dict[str, str],
    rng: random.Random,
) -> list[Pair]:
    """`wanted` other ways to say the commands; none that is known to mean something else."""
    if not joining:
        return []
    rephraser = Rephraser(((s.intent, s.marked) for s in said), joining)
    found: dict[str, Pair] = {}
    for _ in range(wanted * _TRIES):
        if len(found) >= wanted:
            break
        source = rng.choice(said)
        marked = rephraser.other(source.intent, source.marked, rng)
        text = unmarked(marked)
        answer = completion(source.intent, slots_of(marked))
        if owner.setdefault(text, answer) == answer:
            found[text] = Pair(text, answer, source.pair.group)
    return list(found.values())


def _walk(
    templates: list[_Template],
    wanted: int,
    owner: dict[str, str],
    judge: Judge,
    rng: random.Random,
    *,
    testing: bool,
) -> list[_Said]:
    """`wanted` distinct sentences, intents and then templates evenly; ambiguous ones dropped."""
    by_intent: dict[str, list[_Template]] = {}
    for template in templates:
        by_intent.setdefault(template.intent, []).append(template)
    names = sorted(by_intent)
    found: dict[str, _Said] = {}
    for _ in range(wanted * _TRIES):
        if len(found) >= wanted:
            break
        # Half evenly over intents, half over templates: large intents need more.
        pool = by_intent[rng.choice(names)] if rng.random() < 0.5 else templates
        template = rng.choice(pool)
        walker = template.walker
        walker.begin(testing=testing)
        words = walker.expand(template.expression, template.domains, rng)
        marked = normalize_whitespace(words or "").strip()
        text = unmarked(marked)
        if not text or any(value not in text for value in walker.slots.values()):
            continue
        answer = completion(template.intent, walker.slots)
        if owner.setdefault(text, answer) != answer:
            found.pop(text, None)  # the same words mean two things: nobody could tell
            continue
        if text in found:
            continue
        known = not walker.unknown and not testing
        if known or judge.parses(text, walker.free) == {answer}:
            found[text] = _Said(Pair(text, answer, template.group), template.intent, marked)
    listed = list(found.values())
    rng.shuffle(listed)
    return listed
