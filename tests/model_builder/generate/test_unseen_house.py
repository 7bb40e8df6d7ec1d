"""A tuned model of home commands is validated on a house that training never sees."""

from __future__ import annotations

import json

from model_builder.data import home
from model_builder.generate.home_commands import sample_commands


def test_validation_asks_for_values_and_words_that_training_never_sees() -> None:
    """What training knows by heart is no help there; the test has others still."""
    split = sample_commands("en", 400, 60, 1, 0.5, 0.2, 0.8, unseen=True)
    plain = sample_commands("en", 400, 60, 1, 0.5, 0.2, 0.8)
    first, second = home.houses()["en"], home.houses("unseen.yaml")["en"]
    values = set(home.free_values(second))
    assert not values & set(home.free_values(first))
    assert second.names.keys() == first.names.keys()
    assert second.wildcards.keys() == first.wildcards.keys()
    asked = [p for p in split.validation if values & set(_slots(p.completion))]
    assert len({pair.prompt for pair in asked}) == len(asked) > 200
    assert not any(values & set(_slots(p.completion)) for p in (*split.train, *split.test))
    assert not any(values & set(_slots(p.completion)) for p in plain.validation)
    rooms = {room for room in second.area if " " not in room}
    assert not any(rooms & set(pair.prompt.split()) for pair in split.train)
    prompts = [{p.prompt for p in part} for part in (split.train, split.validation, split.test)]
    assert not any(a & b for a, b in zip(prompts, [*prompts[1:], prompts[0]], strict=True))
    tested = {pair.group for pair in split.test}
    assert not any(pair.group in tested for pair in asked)


def _slots(answer: str) -> list[str]:
    """The values of an answer."""
    return list(json.loads(answer)["slots"].values())
