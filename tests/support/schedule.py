"""Which worker runs which tests, and when: long ones first, so that all are busy to the end.

A unit is what one worker runs in one piece: the tests of a module, since they share what their
fixtures made, or one long test. A worker that is done takes the longest unit that is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from xdist.scheduler import LoadScopeScheduling

SECONDS: Final = {
    "tests/end_to_end/test_demo.py::": 25,
    "tests/end_to_end/test_demo.py::test_every_step_of_the_demo_holds": 120,
    "tests/end_to_end/test_joining.py::": 90,
    "tests/end_to_end/test_own_fleet.py::": 15,
    "tests/end_to_end/test_own_fleet.py::test_the_commands_of_the_readme": 100,
    "tests/end_to_end/test_compose.py": 25,
    "tests/soak/test_chaos.py": 70,
    "tests/micro/test_power.py": 60,
    "tests/micro/test_windows.py::test_an_update_waits_for_its_window": 70,
    "tests/micro/test_waiting.py::": 33,
    "tests/micro/test_device.py": 60,
    "tests/micro/test_fleet.py": 15,
    "tests/faults/test_sigkill.py::": 80,
    "tests/faults/test_acknowledged.py::": 25,
    "tests/faults/test_what_devices_wait_for.py::": 25,
    "tests/faults/test_what_devices_wait_for.py::test_a_full_disk": 62,
    "tests/faults/test_what_devices_wait_for.py::test_a_disk_that_fills": 62,
    "tests/faults/test_network.py::": 20,
    "tests/faults/test_fuzz.py": 60,
    "tests/faults/test_fuzz.py::test_no_content_of_a_file_breaks_its_reader[spool.sqlite]": 45,
    "tests/faults/test_fuzz.py::test_no_content_of_a_file_breaks_its_reader[agent.yaml]": 29,
    "tests/faults/test_fuzz.py::test_no_damage_to_a_model_file": 40,
    "tests/faults/test_fuzz_answers.py::": 30,
    "tests/faults/test_ownership.py::": 13,
    "tests/faults/test_every_file_operation.py": 40,
    "tests/faults/test_program_file_operations.py": 25,
    "tests/fleet/rollout/test_simulated.py::": 40,
    "tests/fleet/ownership/test_owners.py": 70,
    "tests/fleet/ingest/test_shared.py": 32,
    "tests/fleet/ingest/test_growth.py": 25,
    "tests/fleet/ingest/test_hostile_devices.py": 20,
    "tests/fleet/test_texts_stay.py": 60,
    "tests/fleet/test_withdrawn.py": 15,
    "tests/fleet/test_controllers.py": 25,
    "tests/fleet/api/test_schema.py::": 20,
    "tests/fleet/api/test_openai.py": 30,
    "tests/fleet/api/test_embeddings.py": 20,
    "tests/fleet/api/test_api.py": 25,
    "tests/fleet/api/test_idempotency_crash.py": 35,
    "tests/fleet/cli/test_up.py": 35,
    "tests/fleet/conductor/test_changes.py": 35,
    "tests/fleet/conductor/test_idle.py": 30,
    "tests/fleet/identity/test_secure_fleet.py": 25,
    "tests/fleet/membership/test_leaving.py": 45,
    "tests/agent/telemetry/test_telemetry.py": 35,
    "tests/agent/runtime/test_check.py": 30,
    "tests/agent/children/test_helper.py": 25,
    "tests/agent/test_daemon.py": 20,
    "tests/browser/": 30,
    "tests/browser/test_dashboard.py": 70,
    "tests/model_builder/test_cli.py": 40,
    "tests/model_builder/classify/test_auto.py": 35,
    "tests/model_builder/classify/test_build.py": 60,
    "tests/model_builder/classify/test_build.py::test_no_file_of_a_bundle": 20,
    "tests/model_builder/classify/test_build.py::test_an_encoder": 25,
    "tests/model_builder/classify/test_build.py::test_the_search_takes": 33,
    "tests/model_builder/classify/test_build.py::test_a_resumed_build": 24,
    "tests/model_builder/classify/test_build.py::test_a_broken_checkpoint": 24,
    "tests/model_builder/classify/test_build.py::test_the_same_seed": 20,
    "tests/model_builder/classify/test_build.py::test_where_made_text": 20,
    "tests/model_builder/classify/test_honest_figures.py": 30,
    "tests/model_builder/generate/test_build.py": 90,
    "tests/model_builder/generate/test_value_grammar.py": 40,
    "tests/model_builder/generate/test_pairs.py": 25,
    "tests/model_builder/generate/test_train.py": 20,
}  # fmt: skip
"""How long units take, about, on two quiet cores: a module, tests of one that begin so, one each,
or, with a slash at its end, each module of a folder. What is not here takes a second or two."""


def unit(nodeid: str) -> str:
    """The unit of a test: itself if it is one of its own, else its module."""
    found = _entry(nodeid)
    return nodeid if found is not None and "::" in found else nodeid.partition("::")[0]


def ordered(nodeids: Iterable[str]) -> list[int]:
    """The places of tests in the order in which they are to begin: the longest units first.

    What is in a unit stays in its order, and so do units that take as long as each other.
    """
    units = [unit(nodeid) for nodeid in nodeids]
    tests = Counter(units)
    first: dict[str, int] = {}
    for at, one in enumerate(units):
        first.setdefault(one, at)
    cost = {one: SECONDS.get(_entry(one) or "", 1 + 0.1 * tests[one]) for one in tests}
    return sorted(range(len(units)), key=lambda at: (-cost[units[at]], first[units[at]], at))


def _entry(nodeid: str) -> str | None:
    """The entry of a test or unit: the longest one with which it begins."""
    return max((one for one in SECONDS if nodeid.startswith(one)), key=len, default=None)


class LongestFirst(LoadScopeScheduling):
    """Gives workers units in the order of the collected tests, which is that of `ordered`."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
