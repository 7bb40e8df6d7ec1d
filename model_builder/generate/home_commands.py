"""Home commands: a sentence -> ``{"intent": ..., "slots": {...}}``.

The sentences are random walks over Home Assistant's templates as hassil parsed them; the slots
are the words that fill the template's lists, as they stand in the sentence. The test split has
templates and slot values that training never saw.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
from hassil.expression import Alternative, Expression, Group, ListReference, Permutation
from hassil.util import normalize_whitespace

from contracts import codec
from model_builder.data import home
from model_builder.generate.pairs import Pair, Split

_TRIES = 10
_MADE_UP = 0.5
"""Share of free values that are random words while training, so that copying is learnt."""

_FREE = ("area", "name")
_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnprstvwz"
_TEST_SHARE = 0.1
_VALIDATION_SHARE = 0.05


class _Template(msgspec.Struct, frozen=True):
    """One sentence template of an intent."""

    intent: str
    group: str
    expression: Any
    domains: tuple[str, ...]
    walker: Any


class _SlotWalker(home._Walker):  # the same walk; this one remembers what fills each list
    """Expands a template and keeps the slots.

    Attributes:
        slots: of the expansion at work.
        held: values that training must not see (True) or alone may see (False) by turn.
    """

    def __init__(self, rules: Any, lists: Any, house: home.House) -> None:
        super().__init__(rules, lists, house)
        self.slots: dict[str, str] = {}
        self.testing = False
        self.held: set[str] = set()
        self.words: list[str] = []

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
            return f"{node.prefix or ''}{value}{node.suffix or ''}"
        if isinstance(node, Alternative):
            return self.expand(rng.choice(node.items), domains, rng)
        if isinstance(node, Group):
            items = list(node.items)
            if isinstance(node, Permutation):
                rng.shuffle(items)
            parts = [self.expand(item, domains, rng) for item in items]
            return None if None in parts else "".join(p for p in parts if p is not None)
        return super().expand(node, domains, rng)

    def _slot_value(
        self, node: ListReference, domains: tuple[str, ...], rng: random.Random
    ) -> str | None:
        free = node.list_name in _FREE or node.list_name in self.house.wildcards
        if not free:
            return self._value(node, domains, rng)
        if not self.testing and rng.random() < _MADE_UP:
            return _made_up(self.words, rng)
        for _ in range(20):
            value = self._value(node, domains, rng)
            if value is None or (value in self.held) == self.testing:
                return value
        return None


def _made_up(words: list[str], rng: random.Random) -> str:
    """One to three words, known ones and syllables."""
    parts = []
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        if rng.random() < 0.5:
            parts.append(rng.choice(words))
        else:
            syllables = rng.randrange(1, 4)
            parts.append(
                "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(syllables))
                + rng.choice(("", "", "n", "r", "s", "t"))
            )
    return " ".join(parts)


def completion(intent: str, slots: dict[str, str]) -> str:
    """The answer as compact JSON, slots in the order of their names."""
    return codec.encode({"intent": intent, "slots": dict(sorted(slots.items()))}).decode()


def _templates(language: str) -> list[_Template]:
    intents = home.load_intents(language)
    house = home.houses().get(language, home.houses()["en"])
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


def _free_values(language: str) -> list[str]:
    house = home.houses().get(language, home.houses()["en"])
    values = [*house.area, *house.floor]
    for listed in (*house.names.values(), *house.wildcards.values()):
        values += listed
    return sorted(set(values))


def sample_commands(language: str, sentences: int, test: int, seed: int) -> Split:
    """Distinct sentences with their JSON; the test split has unseen templates and values.

    Args:
        language: for example ``en``.
        sentences: to train with.
        test: to measure with.
        seed: same seed, same pairs.

    Raises:
        InputError: ``unknown-language``.
    """
    rng = random.Random(seed)
    values = _free_values(language)
    held = set(rng.sample(values, max(1, len(values) // 5)))
    words = sorted({word for value in values if value not in held for word in value.split()})
    by_intent: dict[str, list[_Template]] = {}
    for template in _templates(language):
        template.walker.held, template.walker.words = held, words
        by_intent.setdefault(template.intent, []).append(template)
    unseen: list[_Template] = []
    seen: list[_Template] = []
    for listed in by_intent.values():
        rng.shuffle(listed)
        cut = int(len(listed) * _TEST_SHARE + 0.5) if len(listed) > 3 else 0
        unseen += listed[:cut]
        seen += listed[cut:]
    owner: dict[str, str] = {}
    trained = _walk(seen, sentences, owner, rng, testing=False)
    tested = _walk(unseen, test, owner, rng, testing=True)
    spared = int(len(trained) * _VALIDATION_SHARE)
    return Split(trained[spared:], trained[:spared], tested)


def _walk(
    templates: list[_Template],
    wanted: int,
    owner: dict[str, str],
    rng: random.Random,
    *,
    testing: bool,
) -> list[Pair]:
    """`wanted` distinct sentences, intents and then templates evenly; ambiguous ones dropped."""
    by_intent: dict[str, list[_Template]] = {}
    for template in templates:
        by_intent.setdefault(template.intent, []).append(template)
    names = sorted(by_intent)
    found: dict[str, Pair] = {}
    for _ in range(wanted * _TRIES):
        if len(found) >= wanted:
            break
        # Half evenly over intents, half over templates: large intents need more.
        pool = by_intent[rng.choice(names)] if rng.random() < 0.5 else templates
        template = rng.choice(pool)
        walker = template.walker
        walker.slots, walker.testing = {}, testing
        words = walker.expand(template.expression, template.domains, rng)
        text = normalize_whitespace(words or "").strip()
        if not text or any(value not in text for value in walker.slots.values()):
            continue
        answer = completion(template.intent, walker.slots)
        if owner.setdefault(text, answer) != answer:
            found.pop(text, None)  # the same words mean two things: nobody could tell
            continue
        if text not in found:
            found[text] = Pair(text, answer, template.group)
    pairs = list(found.values())
    rng.shuffle(pairs)
    return pairs


def output_grammar(pairs: list[Pair]) -> str:
    """A Lark grammar for the answers: known intents and slots, values in the prompt's words."""
    intents: set[str] = set()
    slots: set[str] = set()
    for pair in pairs:
        answer = msgspec.json.decode(pair.completion)
        intents.add(answer["intent"])
        slots |= set(answer["slots"])
    names = " | ".join(f'"{name}"' for name in sorted(intents))
    keys = " | ".join(f'"{name}"' for name in sorted(slots))
    return (
        'start: "{\\"intent\\":\\"" intent "\\",\\"slots\\":{" (pair ("," pair)*)? "}}"\n'
        f"intent: {names}\n"
        'pair: "\\"" key "\\":\\"" value "\\""\n'
        f"key: {keys}\n"
        'value: %regex { "substring_words": @PROMPT@ }\n'
    )
