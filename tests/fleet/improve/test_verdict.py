"""A new version that is worse than the one that runs is found, and said to be, with its labels."""

from __future__ import annotations

import pytest

from fleet.improve.verdict import Answered, Verdict, compare, judge, tail


def rows(
    label: str, both: int = 0, fixed: int = 0, broken: int = 0, neither: int = 0
) -> list[Answered]:
    """Rows of a label, by which version has them right."""
    return [
        *[Answered(label, label, label)] * both,
        *[Answered(label, "?", label)] * fixed,
        *[Answered(label, label, "?")] * broken,
        *[Answered(label, "?", "?")] * neither,
    ]


def verdict(test: list[Answered], field: list[Answered], max_loss: float = 0.02) -> Verdict:
    """Of rows of both kinds."""
    return judge([compare("test", test), compare("field", field)], max_loss)


def test_what_is_better_or_as_good_may_go_on() -> None:
    """A few rows lost by chance on the old test split are not held against it."""
    better = verdict(rows("a", 98, 0, 1) + rows("b", 100), rows("a", 10, 8, 1))
    assert better.stops == []
    same = verdict(rows("a", 100), rows("a", 10))
    assert same.stops == [] and "no better" in same.notes[0]
    nothing = verdict(rows("a", 100), [])
    assert nothing.stops == [] and "no field rows" in nothing.notes[0]


def test_what_loses_more_than_it_may_is_stopped_with_the_labels_that_lost() -> None:
    """On the old test split beyond the limit; on kept-out rows at all."""
    worse = verdict(rows("a", 90, 0, 6) + rows("b", 100), rows("a", 10, 5))
    assert len(worse.stops) == 1 and "test split" in worse.stops[0]
    assert "a 96 to 90 of 96" in worse.stops[0] and "b " not in worse.stops[0].split("most")[1]
    field = verdict(rows("a", 100), rows("a", 10, 1, 2))
    assert len(field.stops) == 1 and "kept-out" in field.stops[0]
    both = verdict(rows("a", 50, 0, 50), rows("a", 0, 0, 9))
    assert len(both.stops) == 2


def test_a_label_that_is_ruined_stops_what_is_better_in_all() -> None:
    """Its harm would hide in the sum; chance alone names no label."""
    ruined = verdict(rows("a", 100, 40) + rows("b", 2, 0, 12), rows("a", 5, 5), 0.5)
    assert len(ruined.stops) == 1 and "b: 2 of 14 right, before 14" in ruined.stops[0]
    even = [row for number in range(30) for row in rows(f"l{number}", 20, 1, 1)]
    chance = verdict(even + rows("unlucky", 16, 0, 4), rows("a", 5, 5), 0.1)
    assert chance.stops == []
    few = verdict(rows("a", 100, 10) + rows("b", 0, 0, 3), rows("a", 5, 5), 0.1)
    assert few.stops == [], "three rows say nothing of a label alone"


@pytest.mark.parametrize(
    ("count", "of", "chance"), [(0, 0, 1.0), (1, 1, 0.5), (5, 5, 1 / 32), (8, 10, 56 / 1024)]
)
def test_the_chance_of_so_many_by_luck(count: int, of: int, chance: float) -> None:
    """A sign test, from both ends of its range."""
    assert tail(count, of) == pytest.approx(chance)
    assert tail(600, 1001) < 1e-9 < 0.5 < tail(500, 1001) + 0.02
