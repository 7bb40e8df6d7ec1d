"""How likely an answer is wrong."""

from __future__ import annotations

import pytest

from contracts.doubt import doubt


def test_a_correction_makes_a_mistake_likelier_and_several_make_it_sure() -> None:
    """Nine to one, as one verdict in ten errs; of a model that is sure it still may be false."""
    assert doubt(0.5, [], 0) == pytest.approx(0.5)
    assert doubt(0.5, ["corrected"], 1) == pytest.approx(0.9)
    assert doubt(0.98, ["corrected"], 1) < 0.2
    assert doubt(0.98, ["corrected"], 3) > 0.9
    assert doubt(0.3, [], 0) > doubt(0.95, ["corrected"], 1)


def test_what_a_shadow_says_otherwise_or_is_near_the_threshold_is_in_doubt() -> None:
    """However sure the model is; and nothing is certain."""
    assert doubt(0.99, ["near-threshold"], 0) == pytest.approx(0.5)
    assert doubt(0.99, ["shadow-disagrees"], 0) == pytest.approx(0.7)
    assert 0 < doubt(1.0, [], 0) < doubt(0.0, [], 10**9) < 1
