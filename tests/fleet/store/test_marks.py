"""Marks: what is there of a numbered stream, whatever order it comes in."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from contracts import limits
from fleet.store.marks import NOTHING, Mark, advance

NUMBERS = st.lists(st.integers(0, 40), max_size=60)


@given(NUMBERS, st.integers(1, 5))
def test_a_mark_is_what_a_set_of_numbers_would_say(numbers: list[int], parts: int) -> None:
    """In any order, repeated, and in one go or in parts."""
    mark = Mark()
    for part in range(parts):
        mark = advance(mark, [(n - 1, n) for n in numbers[part::parts]])
    there = set(numbers)
    assert mark.upto == next(n for n in range(99) if n not in there) - 1
    assert {n for n in range(99) if mark.covers(n)} == there
    edges = [edge for pair in mark.ahead for edge in pair]
    assert edges == sorted(edges)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(mark.ahead))


def test_a_gap_that_will_never_be_filled_is_passed() -> None:
    """The message behind it says so, whether it comes before or after the one before the gap."""
    assert advance(Mark(4), [(4, 9)]) == Mark(9)
    assert advance(Mark(3), [(4, 9)]) == Mark(3, ((5, 9),))
    assert advance(Mark(3, ((5, 9),)), [(3, 4)]) == Mark(9)
    assert advance(Mark(), [(NOTHING, 7)]) == Mark(7)


def test_a_device_that_leaves_holes_makes_no_mark_without_bounds() -> None:
    """The highest ranges are given up; what is there in order still counts."""
    mark = advance(Mark(), [(n - 1, n) for n in range(0, 10_000, 2)])
    assert len(mark.ahead) == limits.MAX_ACK_RANGES
    assert mark.upto == 0
    assert advance(mark, [(0, 1)]).upto == 2
