"""Home commands: a sentence -> ``{"intent": ..., "slots": {...}}``.

The sentences are random walks over Home Assistant's templates as hassil parsed them; the slots
are the words that fill the template's lists, as they stand in the sentence. The test split has
templates and slot values that training never saw.

A sentence with a value that nobody knows may have several answers: "adjust the X temperature to
20" is said of an area and of a device. hassil itself decides what is ambiguous: a sentence with
an unknown value stays only if hassil, told the values but not what each one is, finds one parse.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import msgspec
from hassil.expression import Alternative, Expression, Group, ListReference, Permutation
from hassil.intents import Intents, TextSlotList
from hassil.recognize import recognize_all
from hassil.util import normalize_whitespace

from contracts import codec
from model_builder.data import home
from model_builder.generate.pairs import Pair, Split
from model_builder.generate.rephrase import Rephraser, mark, slots_of, unmarked

_TRIES = 20
_MADE_UP = 0.85
"""Share of free values that are made-up words while training, so that copying is learnt."""

_OTHERS = 0.08
"""Share of the words of made-up names that are those of other slots."""

_VARIANTS = 0.25
"""Share of made-up names that are a known one with another word."""

_FIRST = 1000
"""Sentences that free text is cut out of."""

_SENTENCE = 1.8
"""Words of a list's values, in the mean, from which on they are free text and not names."""

_RUNS = 0.4
"""Share of made-up free text that is a piece of another sentence: a command to be run later."""

_FREE = ("area", "name")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LOOKS_AT_TEMPLATE = 40
_TEST_SHARE = 0.1
_TESTED = "of the test split"
_VALIDATION_SHARE = 0.03
_LOOKS = 5
"""Values of a slot in the validation split that say whether new ones are to be expected."""

_NUMBER = "-?[0-9]+"
_COMMON = 10
_MANY = 500


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
        held: values that training must not see.
        names, texts: make up areas and names, by list, and free text; None: nothing is made up.
    """

    def __init__(self, rules: Any, lists: Any, house: home.House) -> None:
        super().__init__(rules, lists, house)
        self.testing = False
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
        if node.list_name not in _FREE and node.list_name not in self.house.wildcards:
            return self._value(node, domains, rng)
        value = self._free_value(node, domains, rng)
        if value is not None:
            self.free.add(normalize_whitespace(value).strip())
        return value

    def _free_value(
        self, node: ListReference, domains: tuple[str, ...], rng: random.Random
    ) -> str | None:
        if not self.testing and self.texts and rng.random() < _MADE_UP:
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


class Inventor:
    """Makes up values: known words, words that look like them, and random letters.

    Args:
        values: known ones.
        words: of new ones; newer words follow their letters two by two.
        others: words that now and then stand among them.
        sentences: runs of words out of them now and then are the free text.
    """

    def __init__(
        self,
        values: Iterable[str],
        words: Iterable[str],
        others: Sequence[str] = (),
        sentences: Sequence[str] = (),
    ) -> None:
        self._values = sorted(values)
        self._words = sorted(words)
        self._others = others
        self._sentences = sentences
        self._after: dict[str, list[str]] = defaultdict(list)
        for word in self._words:
            padded = f"  {word} "
            for at in range(len(word) + 1):
                self._after[padded[at : at + 2]].append(padded[at + 2])

    def name(self, rng: random.Random) -> str:
        """One to three words; some are a known name with another word in it: "zorb lamp"."""
        if rng.random() < _VARIANTS:
            words = rng.choice(self._values).split()
            words[:1] = [self._alike(rng)] if len(words) > 1 else [self._alike(rng), words[0]]
            return " ".join(words)
        return " ".join(self._word(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))

    def text(self, rng: random.Random) -> str:
        """One to six words."""
        count = rng.randrange(1, 7)
        if self._sentences and rng.random() < _RUNS:
            words = rng.choice(self._sentences).split()
            # A command to be run later is whole more often than not.
            at = rng.choice((0, rng.randrange(max(1, len(words) - count + 1))))
            return " ".join(words[at : at + count])
        return " ".join(self._word(rng) for _ in range(count))

    def _word(self, rng: random.Random) -> str:
        kind = rng.random()
        if kind < _OTHERS and self._others:
            return rng.choice(self._others)
        if kind < 0.5:
            return rng.choice(self._words)
        if kind < 0.85:
            return self._alike(rng)
        return "".join(rng.choice(_LETTERS) for _ in range(rng.randrange(2, 9)))

    def _alike(self, rng: random.Random) -> str:
        made = "  "
        while len(made) < 14:
            letter = rng.choice(self._after[made[-2:]])
            if letter == " ":
                break
            made += letter
        return made.strip()


class Judge:
    """Says what sentences mean to one who knows no area and no name.

    Args:
        language: for example ``en``.
    """

    def __init__(self, language: str) -> None:
        self._intents: Intents = home.load_intents(language)
        self._house = home.houses().get(language, home.houses()["en"])
        for intent in self._intents.intents.values():
            # What a device is does not show in a name that nobody knows.
            intent.data = [
                dataclasses.replace(data, requires_context={}, excludes_context={})
                for data in intent.data
            ]

    def parses(self, text: str, values: set[str]) -> set[str]:
        """The answers that a sentence may have, as their JSON.

        Args:
            text: the sentence.
            values: words in it that may be an area, a name or free text.
        """
        names = (*_FREE, *self._house.wildcards)
        # Where two of them touch, nobody knows the border.
        values = values | {
            f"{a} {b}" for a in values for b in values if f" {a} {b} " in f" {text} "
        }
        lists: dict[str, Any] = {
            name: TextSlotList.from_strings(sorted(values), allow_template=False, name=name)
            for name in names
        }
        lists["floor"] = TextSlotList.from_strings(self._house.floor, name="floor")
        found = set()
        for result in recognize_all(text, self._intents, slot_lists=lists):
            spoken = {k: normalize_whitespace(e.text).strip() for k, e in result.entities.items()}
            slots = {k: value for k, value in spoken.items() if value and value in text}
            found.add(completion(result.intent.name, slots))
        return found


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
    language: str, sentences: int, test: int, seed: int, rephrased: float = 0.0
) -> Split:
    """Distinct sentences with their JSON; the test split has unseen templates and values.

    Args:
        language: for example ``en``.
        sentences: to train with.
        test: to measure with.
        seed: same seed, same pairs.
        rephrased: other ways to say them, by share of `sentences`, to train with too.

    Raises:
        InputError: ``unknown-language``.
    """
    rng = random.Random(seed)
    values = _free_values(language)
    held = set(rng.sample(values, max(1, len(values) // 5)))
    house = home.houses().get(language, home.houses()["en"])
    templates = _templates(language)
    by_intent: dict[str, list[_Template]] = {}
    for template in templates:
        template.walker.held = held
        by_intent.setdefault(template.intent, []).append(template)
    unseen: list[_Template] = []
    seen: list[_Template] = []
    for listed in by_intent.values():
        rng.shuffle(listed)
        held_back = _held_back(listed, rng)
        unseen += held_back
        seen += [template for template in listed if template not in held_back]
    owner: dict[str, str] = {}
    judge = Judge(language)
    _invent(templates, seen, language, held, judge, rng)
    trained = _walk(seen, sentences, owner, judge, rng, testing=False)
    tested = _walk(unseen, test, owner, judge, rng, testing=True)
    spared = int(len(trained) * _VALIDATION_SHARE)
    pairs = [said.pair for said in trained]
    for said in tested:
        owner[said.pair.prompt] = _TESTED
    more = _rephrased(trained[spared:], int(sentences * rephrased), house.joining, owner, rng)
    return Split(pairs[spared:] + more, pairs[:spared], [said.pair for said in tested])


def _invent(
    templates: list[_Template],
    seen: list[_Template],
    language: str,
    held: set[str],
    judge: Judge,
    rng: random.Random,
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

    def give(words: set[str], sentences: list[str]) -> None:
        names = {kind: Inventor(known, words, others) for kind, known in lists.items()}
        texts = Inventor(free, words | set(_words(free)), sentences=sentences)
        for template in templates:
            template.walker.names, template.walker.texts = names, texts

    give(words, [])
    said = [s.pair.prompt for s in _walk(seen, _FIRST, {}, judge, rng, testing=False)]
    prose = _prose(language) - set(_words(said)) - set(_words(held))
    give(words | prose, said)


def _prose(language: str) -> set[str]:
    """Words of a language, of three to ten letters; out of the texts that come with it."""
    if language != "en":
        return set()
    folder = resources.files("model_builder.generate.texts")
    found: set[str] = set()
    for name in ("calibration.txt", "perplexity.txt"):
        found |= set(re.findall(r"\b[a-z]{3,10}\b", (folder / name).read_text("utf-8")))
    return found


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


def answer_phrases(pairs: list[Pair]) -> list[str]:
    """What stands around the values in the answers: each is one piece of the vocabulary.

    A piece ends where the grammar leaves a choice: what it forces is cut into pieces apart from
    what follows, and must be cut there as it was in training.
    """
    intents = _intents_of(pairs)
    shared = os.path.commonprefix(list(intents))  # noqa: RUF071  # letters, not folders
    found = {f'{{"intent":"{shared}', '"}}', "}}"}
    for intent, keys in intents.items():
        found.add(f'{intent.removeprefix(shared)}","slots":{{')
        for key in keys:
            found |= {f'"{key}":"', f'","{key}":"'}
    return sorted(found)


def output_grammar(pairs: list[Pair], validation: Sequence[Pair] = ()) -> str:
    """A Lark grammar for the answers.

    Known intents, each with slots that were seen with it, in the order of their names and once
    each; values are whole words of the prompt. Where `validation` shows that a slot takes a
    closed list of values or numbers, it takes no others.
    """
    intents = _intents_of(pairs)
    # Numbered: a key may hold what no name of a rule may.
    slots_at = {key: at for at, key in enumerate(sorted({k for s in intents.values() for k in s}))}
    rules = []
    starts = []
    for number, (intent, keys) in enumerate(sorted(intents.items())):
        listed = sorted(keys)
        starts.append(f"i{number}")
        slots = f" s{number}_0?" if listed else ""
        rules.append(f'i{number}: "{intent}\\",\\"slots\\":{{"{slots} "}}}}"')
        rules += _slot_rules(number, [slots_at[key] for key in listed])
    patterns = _patterns(pairs, validation)
    edges = _edges(pairs)
    for key, at in slots_at.items():
        # Key and value are one lexeme: where the prompt has no value for it, neither can be.
        more = f" & /{patterns[key]}/" if key in patterns else "".join(edges[key])
        rules.append(f"VALUE_{at}: WORDS{more}")
        rules.append(f'SLOT_{at}: "\\"{key}\\":\\"" VALUE_{at} "\\""')
    return (
        f'start: "{{\\"intent\\":\\"" ({" | ".join(starts)})\n'
        + "\n".join(rules)
        + "\nWORDS: PROMPT & /[^ ](.*[^ ])?/\n"
        + 'PROMPT: %regex { "substring_chunks": @PIECES@ }\n'
    )


def _slot_rules(number: int, keys: list[int]) -> list[str]:
    """Rule ``sN_K``: a slot out of the keys from K on, and then any later ones."""
    rules = []
    for at, key in enumerate(keys):
        rest = f' ("," s{number}_{at + 1})?' if at + 1 < len(keys) else ""
        other = f" | s{number}_{at + 1}" if at + 1 < len(keys) else ""
        rules.append(f"s{number}_{at}: SLOT_{key}{rest}{other}")
    return rules


def _patterns(pairs: Sequence[Pair], validation: Sequence[Pair]) -> dict[str, str]:
    """Regular expressions of the slots whose values are known to the last.

    A slot is such a one if none of its values in `validation` is new, a number aside.
    """
    known, looked = _values_of(pairs), _values_of(validation)
    found = {}
    for key, values in known.items():
        words = {value for value in values if not _is_number(value)}
        new = {value for value in looked[key] if not _is_number(value)} - words
        if len(looked[key]) < _LOOKS or new:
            continue
        number = [_NUMBER] if any(map(_is_number, values)) else []
        found[key] = "|".join([*number, *_escaped(words)])
    return found


def _edges(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """What no value of a slot begins or ends with: words that all sentences are full of.

    Such a word is in one of ten sentences, and at that edge of none of the slot's values, if
    those are many: an area is not "the attic", nor "attic to".
    """
    said = Counter(word for pair in pairs for word in set(pair.prompt.split()))
    common = {word for word, count in said.items() if count * _COMMON >= len(pairs)}
    found: dict[str, list[str]] = defaultdict(list)
    for key, values in _values_of(pairs).items():
        if len(values) < _MANY:
            continue
        for at, pattern in ((0, "({})( .*)?"), (-1, "(.* )?({})")):
            edge = common - {value.split()[at] for value in values}
            if edge:
                found[key].append(f" & ~/{pattern.format('|'.join(_escaped(edge)))}/")
    return found


def _escaped(words: Iterable[str]) -> list[str]:
    return [re.escape(word).replace("/", r"\/") for word in sorted(words)]


def _is_number(value: str) -> bool:
    return re.fullmatch(_NUMBER, value) is not None


def _values_of(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        for key, value in msgspec.json.decode(pair.completion)["slots"].items():
            found[key].append(value)
    return found


def _intents_of(pairs: list[Pair]) -> dict[str, set[str]]:
    """Intents with the slots that they were seen with."""
    found: dict[str, set[str]] = {}
    for pair in pairs:
        answer = msgspec.json.decode(pair.completion)
        found.setdefault(answer["intent"], set()).update(answer["slots"])
    return found
