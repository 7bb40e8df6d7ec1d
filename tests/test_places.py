"""The places that tests break are there: a program that cannot break them does not even start."""

from __future__ import annotations

import pytest

from tests.support import breaking, breaking_agent, breaking_controller


@pytest.mark.parametrize("program", [breaking_agent, breaking_controller], ids=["agent", "fleet"])
def test_every_place_that_is_to_fail_is_there(program: object) -> None:
    """What is moved or renamed is moved in the list, too."""
    places: tuple[str, ...] = program.PLACES  # type: ignore[attr-defined]
    assert len(places) > 10
    for place in places:
        breaking.found(place)
