"""What sentences of the templates mean, as one reads them who knows no area and no name."""

from __future__ import annotations

import dataclasses
from typing import Any

from hassil.intents import Intent, IntentData, Intents, TextSlotList
from hassil.recognize import recognize_all
from hassil.util import fold_case, normalize_for_matching, normalize_whitespace

from model_builder.data import home
from model_builder.generate.answers import completion

_Required = frozenset[frozenset[str]]
"""What a text must hold to fit a template: of each set one."""

FREE = ("area", "name")
"""Slots whose values a household chooses."""


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
        rules = self._intents.expansion_rules
        self._blocks: list[tuple[str, IntentData, set[_Required]]] = [
            (
                intent.name,
                data,
                {
                    sentence.get_required_clauses({**rules, **data.expansion_rules})
                    for sentence in data.sentences
                },
            )
            for intent in self._intents.intents.values()
            for data in intent.data
        ]
        self._clauses = {c for _, _, templates in self._blocks for one in templates for c in one}

    def parses(self, text: str, values: set[str]) -> set[str]:
        """The answers that a sentence may have, as their JSON.

        Args:
            text: the sentence.
            values: words in it that may be an area, a name or free text.
        """
        names = (*FREE, *self._house.wildcards)
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
        for result in recognize_all(text, self._possible(text), slot_lists=lists):
            spoken = {k: normalize_whitespace(e.text).strip() for k, e in result.entities.items()}
            slots = {k: value for k, value in spoken.items() if value and value in text}
            found.add(completion(result.intent.name, slots))
        return found

    def _possible(self, text: str) -> Intents:
        """The templates without the blocks of which hassil would drop each one by its own filter.

        It joins every block's lists before it filters: that took half of its time.
        """
        if self._intents.settings.ignore_whitespace:
            return self._intents
        folded = fold_case(normalize_for_matching(text).text)
        missing = {c for c in self._clauses if not any(fragment in folded for fragment in c)}
        intents: dict[str, Intent] = {}
        for name, data, templates in self._blocks:
            if any(map(missing.isdisjoint, templates)):
                intents.setdefault(name, Intent(name, [])).data.append(data)
        return dataclasses.replace(self._intents, intents=intents)
