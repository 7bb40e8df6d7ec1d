"""Which worker runs which tests, and when: long ones first, so that all are busy to the end.

A unit is what one worker runs in one piece: the tests of a module, since they share what their
fixtures made, or one long test. A worker that is done takes the longest unit that is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

SECONDS: Final = {
    "tests/agent/children/test_helper.py": 63,
    "tests/agent/generate/test_adapted.py": 8,
    "tests/agent/generate/test_call_forms.py": 8,
    "tests/agent/generate/test_formats.py": 7,
    "tests/agent/generate/test_model.py": 13,
    "tests/agent/release/test_environment.py": 13,
    "tests/agent/runtime/test_acceleration.py": 16,
    "tests/agent/runtime/test_check.py": 20,
    "tests/agent/serving/test_accelerators.py": 8,
    "tests/agent/telemetry/test_telemetry.py": 11,
    "tests/agent/test_daemon.py": 7,
    "tests/agent/test_texts_stay.py": 13,
    "tests/agent/update/test_adapters.py": 13,
    "tests/agent/update/test_damage.py": 7,
    "tests/agent/update/test_engine.py": 7,
    "tests/agent/update/test_hold.py": 10,
    "tests/agent/update/test_machine.py": 8,
    "tests/browser/": 60,
    "tests/browser/test_dashboard.py": 70,
    "tests/conformance/test_client.py": 20,
    "tests/contracts/chat/test_template.py": 9,
    "tests/contracts/test_messages.py": 9,
    "tests/contracts/test_pipes.py": 20,
    "tests/contracts/test_stopping.py": 18,
    "tests/contracts/test_tokenizer.py": 22,
    "tests/contracts/test_wording.py": 7,
    "tests/docs/test_errors.py": 10,
    "tests/docs/test_links.py": 8,
    "tests/end_to_end/test_adapters.py": 22,
    "tests/end_to_end/test_compose.py": 43,
    "tests/end_to_end/test_demo.py::": 68,
    "tests/end_to_end/test_demo.py::test_every_step_of_the_demo_holds": 121,
    "tests/end_to_end/test_field.py": 15,
    "tests/end_to_end/test_improve.py": 39,
    "tests/end_to_end/test_joining.py::": 105,
    "tests/end_to_end/test_maintenance.py": 10,
    "tests/end_to_end/test_own_fleet.py::": 22,
    "tests/end_to_end/test_own_fleet.py::test_the_commands_of_the_readme": 112,
    "tests/end_to_end/test_program.py": 56,
    "tests/end_to_end/test_protections.py": 17,
    "tests/faults/test_acknowledged.py::": 61,
    "tests/faults/test_every_file_operation.py": 44,
    "tests/faults/test_fuzz.py": 22,
    "tests/faults/test_fuzz.py::test_no_content_of_a_file_breaks_its_reader[agent.yaml]": 4,
    "tests/faults/test_fuzz.py::test_no_content_of_a_file_breaks_its_reader[spool.sqlite]": 19,
    "tests/faults/test_fuzz.py::test_no_damage_to_a_model_file": 49,
    "tests/faults/test_fuzz_answers.py::": 30,
    "tests/faults/test_network.py::": 20,
    "tests/faults/test_ownership.py::": 13,
    "tests/faults/test_program_file_operations.py": 31,
    "tests/faults/test_program_kills.py": 20,
    "tests/faults/test_sigkill.py::": 44,
    "tests/faults/test_what_devices_wait_for.py::": 25,
    "tests/faults/test_what_devices_wait_for.py::test_a_disk_that_fills": 62,
    "tests/faults/test_what_devices_wait_for.py::test_a_full_disk": 62,
    "tests/fleet/api/test_api.py": 36,
    "tests/fleet/api/test_audited.py": 39,
    "tests/fleet/api/test_embeddings.py": 20,
    "tests/fleet/api/test_field.py": 7,
    "tests/fleet/api/test_idempotency.py": 10,
    "tests/fleet/api/test_idempotency_crash.py": 35,
    "tests/fleet/api/test_limits.py": 9,
    "tests/fleet/api/test_members.py": 8,
    "tests/fleet/api/test_openai.py": 82,
    "tests/fleet/api/test_schema.py::": 28,
    "tests/fleet/boards/test_flash.py": 10,
    "tests/fleet/broker/test_applications.py": 17,
    "tests/fleet/cli/test_audited.py": 26,
    "tests/fleet/cli/test_doctor.py": 10,
    "tests/fleet/cli/test_one.py": 7,
    "tests/fleet/cli/test_signing.py": 22,
    "tests/fleet/cli/test_up.py": 35,
    "tests/fleet/conductor/test_changes.py": 35,
    "tests/fleet/conductor/test_idle.py": 30,
    "tests/fleet/dashboard/test_data.py": 7,
    "tests/fleet/home_assistant/test_steward.py": 7,
    "tests/fleet/identity/test_folder_changes.py": 7,
    "tests/fleet/identity/test_secure_fleet.py": 25,
    "tests/fleet/ingest/test_growth.py": 25,
    "tests/fleet/ingest/test_hostile_devices.py": 24,
    "tests/fleet/ingest/test_quota.py": 7,
    "tests/fleet/ingest/test_shared.py": 32,
    "tests/fleet/joining/test_invitations.py": 11,
    "tests/fleet/joining/test_table.py": 8,
    "tests/fleet/joining/test_wheelhouse.py": 17,
    "tests/fleet/lookout/test_broker.py": 16,
    "tests/fleet/membership/test_groups.py": 7,
    "tests/fleet/membership/test_leaving.py": 45,
    "tests/fleet/ownership/test_owners.py": 95,
    "tests/fleet/rollout/test_simulated.py::": 40,
    "tests/fleet/simulate/test_launcher.py": 12,
    "tests/fleet/store/test_selection.py": 8,
    "tests/fleet/store/test_store.py": 9,
    "tests/fleet/test_address.py": 18,
    "tests/fleet/test_backup.py": 7,
    "tests/fleet/test_controllers.py": 25,
    "tests/fleet/test_hints.py": 10,
    "tests/fleet/test_texts_stay.py": 105,
    "tests/fleet/test_webhooks.py": 14,
    "tests/fleet/test_withdrawn.py": 15,
    "tests/micro/test_c_pack.py": 19,
    "tests/micro/test_delegations.py": 16,
    "tests/micro/test_device.py": 91,
    "tests/micro/test_fleet.py": 15,
    "tests/micro/test_inference.py": 8,
    "tests/micro/test_kept.py": 9,
    "tests/micro/test_power.py": 60,
    "tests/micro/test_program.py": 8,
    "tests/micro/test_serving.py": 36,
    "tests/micro/test_waiting.py::": 33,
    "tests/micro/test_windows.py::test_an_update_waits_for_its_window": 70,
    "tests/model_builder/classify/test_auto.py": 22,
    "tests/model_builder/classify/test_build.py": 24,
    "tests/model_builder/classify/test_build.py::test_a_broken_checkpoint": 2,
    "tests/model_builder/classify/test_build.py::test_a_resumed_build": 6,
    "tests/model_builder/classify/test_build.py::test_an_encoder": 18,
    "tests/model_builder/classify/test_build.py::test_no_file_of_a_bundle": 5,
    "tests/model_builder/classify/test_build.py::test_the_same_seed": 6,
    "tests/model_builder/classify/test_build.py::test_the_search_takes": 54,
    "tests/model_builder/classify/test_build.py::test_where_made_text": 7,
    "tests/model_builder/classify/test_honest_figures.py": 18,
    "tests/model_builder/generate/test_build.py": 56,
    "tests/model_builder/generate/test_hostile_import.py": 16,
    "tests/model_builder/generate/test_import.py": 31,
    "tests/model_builder/generate/test_made_up.py": 33,
    "tests/model_builder/generate/test_oracle.py": 27,
    "tests/model_builder/generate/test_pairs.py": 39,
    "tests/model_builder/generate/test_train.py": 12,
    "tests/model_builder/generate/test_unseen_house.py": 14,
    "tests/model_builder/generate/test_value_grammar.py": 12,
    "tests/model_builder/test_cli.py": 13,
    "tests/model_builder/test_data.py": 12,
    "tests/model_builder/test_hostile_tables.py": 7,
    "tests/model_builder/test_rounding.py": 24,
    "tests/model_builder/test_teachers.py": 9,
    "tests/model_builder/test_traced.py": 12,
    "tests/model_builder/tune/test_build.py": 66,
    "tests/model_builder/writing/test_write.py": 17,
    "tests/soak/test_chaos.py": 70,
    "tests/test_shares.py": 7,
}  # fmt: skip
"""How long units take, about, on two quiet cores: a module, tests of one that begin so, one each,
or, with a slash at its end, each module of a folder. What is not here takes a second or two."""


WORKING: Final = (
    "tests/agent/",
    "tests/contracts/",
    "tests/docs/",
    "tests/faults/test_every_file_operation.py",
    "tests/faults/test_fuzz.py",
    "tests/faults/test_sigkill.py",
    "tests/model_builder/",
)
"""Where tests mostly compute; the others mostly wait for other programs."""


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


def next_unit(left: Iterable[str], computes: bool) -> str:
    """The first unit that computes, or that waits; the first of all where there is none."""
    units = list(left)
    return next((one for one in units if one.startswith(WORKING) == computes), units[0])


def _entry(nodeid: str) -> str | None:
    """The entry of a test or unit: the longest one with which it begins."""
    return max((one for one in SECONDS if nodeid.startswith(one)), key=len, default=None)


class LongestFirst(LoadScopeScheduling):
    """Gives workers units in the order of the collected tests, which is that of `ordered`.

    Every third worker begins with the units that compute, the others with those that wait: so
    the cores have work from the first minute to the last. A worker whose kind is done takes the
    other kind.
    """

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        chosen = next_unit(self.workqueue, self.nodes.index(node) % 3 == 0)
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)
