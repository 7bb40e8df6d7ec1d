"""Counts of verdicts: they add up, and stay small whatever is said."""

from __future__ import annotations

from contracts import codec, limits
from contracts.judged import OTHER, UNSAID, Judged


def test_right_and_wrong_are_counted_by_label_and_sampled_ones_apart() -> None:
    """What was picked before anybody looked is a part of the whole."""
    judged = Judged()
    judged.note("on", None, right=True, sampled=True)
    judged.note("on", None, right=True, sampled=False)
    judged.note("on", "off", right=False, sampled=True)
    judged.note("on", None, right=False, sampled=False)
    assert (judged.right, judged.wrong) == (2, 2)
    assert (judged.sampled_right, judged.sampled_wrong) == (1, 1)
    assert judged.labels == {"on": 2}
    assert judged.confusions == {"on": {"off": 1, UNSAID: 1}}


def test_adding_in_any_order_gives_the_same_and_totals_have_no_labels() -> None:
    """Counts of devices, minutes and restarts are added as they come."""
    one, other = Judged(), Judged()
    one.note("a", None, right=True, sampled=False)
    one.note("a", "b", right=False, sampled=True)
    other.note("a", "b", right=False, sampled=False)
    other.note("c", None, right=True, sampled=True)
    other.refuse("no-such-answer")
    first, second = Judged(), Judged()
    for part in (one, other):
        first.merge(part, 2**53)
    for part in (other, one):
        second.merge(part, 2**53)
    assert first == second
    assert first.confusions == {"a": {"b": 2}}
    assert first.refused == {"no-such-answer": 1}
    assert first.totals() == Judged(2, 2, 1, 1, refused={"no-such-answer": 1})
    assert one.labels == {"a": 1}, "what was added is as it was"


def test_verdicts_are_counted_by_how_sure_the_model_was() -> None:
    """In tenths, also at and beyond the ends; those without a confidence are in none."""
    judged, other = Judged(), Judged()
    for confidence in (0.0, 0.99, 1.0, 7.0, -1.0, None):
        judged.note("a", None, right=True, sampled=False, confidence=confidence)
    other.note("a", "b", right=False, sampled=False, confidence=0.55)
    judged.merge(other, 2**53)
    judged.merge(Judged(right=3), 2**53)
    assert judged.sure_right == [2, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert judged.sure_wrong == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert judged.right == 9


def test_pairs_beyond_the_cap_are_counted_together() -> None:
    """However many labels somebody makes up, the count stays small and its sum true."""
    judged = Judged()
    for number in range(limits.MAX_CONFUSIONS + 50):
        judged.note(f"g{number}", f"m{number}", right=False, sampled=False)
    judged.note("g0", "m0", right=False, sampled=False)
    assert judged.pairs == limits.MAX_CONFUSIONS + 1
    assert judged.confusions[OTHER] == {OTHER: 50}
    assert judged.confusions["g0"] == {"m0": 2}
    assert judged.wrong == limits.MAX_CONFUSIONS + 51
    again = Judged()
    again.merge(judged, 2**53)
    again.merge(judged, 2**53)
    assert again.pairs == limits.MAX_CONFUSIONS + 1
    assert sum(sum(m.values()) for m in again.confusions.values()) == again.wrong


def test_labels_refusals_and_sums_have_caps_too() -> None:
    """A count that stays below its limit can be stored."""
    judged = Judged()
    for number in range(limits.MAX_LABELS + 5):
        judged.note(f"l{number}", None, right=True, sampled=False)
    assert len(judged.labels) == limits.MAX_LABELS + 1
    assert judged.labels[OTHER] == 5
    sums = Judged()
    for _ in range(3):
        sums.merge(Judged(right=2**52, labels={"a": 2**52}), 2**53)
    for number in range(40):
        sums.merge(Judged(refused={f"c{number}": 1}), 2**53)
    assert sums.right == sums.labels["a"] == 2**53
    assert len(sums.refused) <= 17
    assert sum(sums.refused.values()) == 40


def test_a_count_goes_over_the_wire_and_is_small() -> None:
    """What is zero is not sent."""
    judged = Judged()
    judged.note("on", None, right=True, sampled=False)
    data = codec.encode(judged)
    assert data == b'{"right":1,"labels":{"on":1}}'
    assert codec.decode(data, Judged, what="feedback") == judged
