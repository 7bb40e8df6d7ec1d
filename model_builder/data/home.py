"""Sentences of Home Assistant's intents: random walks over the real templates.

``home-assistant-intents`` ships the templates of each language; ``hassil`` parses them. Where
``hassil.sample`` lists every expansion in order, this walks each expression tree at random, so
that a few thousand sentences cover all of it. The slots are filled from a made-up house.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

import msgspec
import yaml
from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    TextChunk,
)
from hassil.intents import Intents, RangeSlotList, SlotList, TextSlotList
from hassil.util import normalize_whitespace

from contracts.errors import InputError
from contracts.labelled.rows import Row

_TRIES_PER_SENTENCE: Final = 8
"""Walks before a template counts as used up: short ones have few distinct expansions."""

_LEAST: Final = 10
"""Sentences of an intent; one that says fewer cannot be learned and tested."""

_SWITCHABLE: Final = ("light", "switch", "fan")
"""Domains of a name where the template names none."""


class House(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What fills the slots: rooms, floors, names by domain, and free text.

    Attributes:
        area, floor: places.
        names: by domain.
        wildcards: free text by list.
        joining: the language's small words between phrases.
    """

    area: list[str]
    floor: list[str]
    names: dict[str, list[str]]
    wildcards: dict[str, list[str]]
    joining: list[str] = []


@cache
def houses(file: str = "houses.yaml") -> dict[str, House]:
    """The made-up houses of a file by language."""
    data = (resources.files("model_builder.data") / file).read_bytes()
    return msgspec.convert(yaml.safe_load(data), type=dict[str, House])


def free_values(house: House) -> list[str]:
    """All that a household chooses: areas, floors, names and free text; sorted."""
    listed = [*house.names.values(), *house.wildcards.values()]
    return sorted({*house.area, *house.floor, *(value for values in listed for value in values)})


def languages() -> list[str]:
    """Languages that have intent templates, sorted."""
    import home_assistant_intents

    return sorted(home_assistant_intents.get_languages())


def load_intents(language: str) -> Intents:
    """The parsed templates of a language.

    Raises:
        InputError: ``unknown-language`` with those there are.
    """
    import home_assistant_intents

    data = home_assistant_intents.get_intents(language) if language in languages() else None
    if data is None:
        raise InputError(
            "unknown-language",
            f"home-assistant-intents has no language {language[:40]!r}; "
            f"it has {', '.join(languages())}",
        )
    return Intents.from_dict(data)


class _Walker:
    """Expands one template at random."""

    def __init__(
        self, rules: Mapping[str, Any], lists: Mapping[str, SlotList], house: House
    ) -> None:
        self.rules = rules
        self.lists = lists
        self.house = house

    def expand(self, node: Expression, domains: tuple[str, ...], rng: random.Random) -> str | None:
        """One expansion of `node`; None when it needs a list or rule that does not exist."""
        if isinstance(node, TextChunk):
            return node.original_text
        if isinstance(node, Alternative):
            return self.expand(rng.choice(node.items), domains, rng)
        if isinstance(node, Group):
            items = list(node.items)
            if isinstance(node, Permutation):
                rng.shuffle(items)
            parts = [self.expand(item, domains, rng) for item in items]
            if any(part is None for part in parts):
                return None
            return "".join(part for part in parts if part is not None)
        if isinstance(node, RuleReference):
            rule = self.rules.get(node.rule_name)
            return None if rule is None else self.expand(rule.expression, domains, rng)
        if isinstance(node, ListReference):
            value = self._value(node, domains, rng)
            return None if value is None else f"{node.prefix or ''}{value}{node.suffix or ''}"
        return None

    def _value(
        self, node: ListReference, domains: tuple[str, ...], rng: random.Random
    ) -> str | None:
        name = node.list_name
        if name == "area":
            return rng.choice(self.house.area)
        if name == "floor":
            return rng.choice(self.house.floor)
        if name == "name":
            known = [d for d in domains if d in self.house.names] or list(_SWITCHABLE)
            return rng.choice(self.house.names[rng.choice(known)])
        if name in self.house.wildcards:
            return rng.choice(self.house.wildcards[name])
        values = self.lists.get(name)
        if isinstance(values, TextSlotList) and values.values:
            return self.expand(rng.choice(values.values).text_in, domains, rng)
        if isinstance(values, RangeSlotList):
            return str(rng.randrange(values.start, values.stop + 1, values.step))
        return None


def _domains(data: Any) -> tuple[str, ...]:
    """The domains that a name in this block of templates may have."""
    wanted = (data.requires_context or {}).get("domain") or (data.slots or {}).get("domain")
    if isinstance(wanted, Mapping):
        wanted = wanted.get("value")
    if isinstance(wanted, str):
        return (wanted,)
    return tuple(str(d) for d in wanted) if isinstance(wanted, (list, tuple)) else ()


def sample(language: str, sentences: int, seed: int) -> list[Row]:
    """Distinct sentences with their intent as the label and their template as the group.

    The intents share the number evenly; one whose templates have fewer expansions gives what it
    has, and the others make up for it. Intents that say almost nothing are left out.

    Args:
        language: for example ``en``.
        sentences: how many in all.
        seed: same seed, same rows.

    Raises:
        InputError: ``unknown-language``.
    """
    intents = load_intents(language)
    house = houses().get(language, houses()["en"])
    rng = random.Random(seed)
    pools: dict[str, list[tuple[str, Expression, tuple[str, ...], _Walker]]] = {}
    for name, intent in sorted(intents.intents.items()):
        for block, data in enumerate(intent.data):
            rules = {**intents.expansion_rules, **(data.expansion_rules or {})}
            lists = {**intents.slot_lists, **(data.slot_lists or {})}
            walker = _Walker(rules, lists, house)
            pools.setdefault(name, []).extend(
                (f"{name}/{block}/{index}", sentence.expression, _domains(data), walker)
                for index, sentence in enumerate(data.sentences)
            )
    found: dict[str, Row] = {}
    owner: dict[str, str] = {}
    ambiguous: set[str] = set()
    open_intents = sorted(pools)
    while open_intents and len(found) < sentences:
        quota = max(1, (sentences - len(found)) // len(open_intents))
        still_open = []
        for name in open_intents:
            fresh = 0
            for _ in range(quota * _TRIES_PER_SENTENCE):
                if fresh >= quota:
                    break
                group, expression, domains, walker = rng.choice(pools[name])
                words = walker.expand(expression, domains, rng)
                text = normalize_whitespace(words or "").strip()
                if not text or text in ambiguous:
                    continue
                if owner.setdefault(text, name) != name:
                    # Two intents say the same: nobody could tell them apart.
                    ambiguous.add(text)
                    found.pop(text, None)
                elif text not in found:
                    found[text] = Row(text, name, group)
                    fresh += 1
            if fresh >= quota:
                still_open.append(name)
        open_intents = still_open
    counts = Counter(row.label for row in found.values())
    rows = [row for row in found.values() if counts[row.label] >= _LEAST][:sentences]
    rng.shuffle(rows)
    return rows
