"""Scenario files say how simulated devices behave; what is wrong in one is named."""

from pathlib import Path

import pytest

from agent.simulate import scenario
from contracts.errors import InputError


def test_an_empty_scenario_is_one_in_which_all_goes_well() -> None:
    """Defaults have no failures."""
    loaded = scenario.load(b"")
    assert loaded.behaviour("intents", "1.0.0").fail_selftest == 0
    assert loaded.offline.share == 0


def test_the_first_matching_entry_decides_how_a_bundle_does() -> None:
    """Entries may name a bundle, a version, or any."""
    loaded = scenario.load(
        b"""
bundles:
  - {bundle: intents, version: 1.1.0, fail_selftest: 0.5}
  - {bundle: intents, roll_back: 0.25}
"""
    )
    assert loaded.behaviour("intents", "1.1.0").fail_selftest == 0.5
    assert loaded.behaviour("intents", "1.0.0").roll_back == 0.25
    assert loaded.behaviour("other", "1.0.0").roll_back == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"ofline: {share: 0.1}", "did you mean 'offline'"),
        (b"offline: {shar: 0.1}", "did you mean 'share'"),
        (b"bundles:\n  - {fail_self_test: 0.1}", "did you mean 'fail_selftest'"),
        (b"offline: {share: 1.5}", "at most 1"),
        (b"seed: -1", "at least 0"),
        (b"slow: 3", "keys with values"),
        (b"- 1", "keys with values"),
        (b"a: [", "not valid"),
        (b"\xff\xfe\x00", "not valid"),
        (b"x: !!python/object/apply:os.system [ls]", "not valid"),
        (b"boards: {}", "at least 1 keys"),
    ],
)
def test_a_bad_scenario_is_refused_with_what_is_wrong(text: bytes, found: str) -> None:
    """Unknown keys come with the nearest known one."""
    with pytest.raises(InputError, match=found) as caught:
        scenario.load(text)
    assert caught.value.code == "bad-scenario"


def test_the_example_scenario_can_be_read() -> None:
    """What users copy works."""
    loaded = scenario.load((Path(__file__).parents[3] / "examples/rehearsal.yaml").read_bytes())
    assert loaded.behaviour("intents", "2.0.0").labels
    assert loaded.behaviour("intents", "1.1.0").fail_selftest == 0.02
