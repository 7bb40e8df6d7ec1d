"""Desired documents: which count, and that none shuts out all later ones."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.__main__ import main
from agent.system.filesystem import Disk
from agent.system.state import StateFolder
from agent.update.inbox import Inbox, judge
from contracts import limits
from contracts.bundle import Bundle
from contracts.config import AgentConfig
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import ErrorInfo
from fleet.identity.provisioning import to_yaml
from tests.support.controller import TINY, TINY_NEXT
from tests.support.engine import FakeClock, MemoryRepository, Rig

OLD = Bundle.open(TINY).ref
NEW = Bundle.open(TINY_NEXT).ref
HIGHEST = 2**53 - 1


def wish(ref: object) -> dict[str, DesiredBundle]:
    """The slot ``classify`` with a bundle that is kept at once."""
    return {"classify": DesiredBundle(ref, trial=TrialRules(seconds=0))}  # type: ignore[arg-type]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A device that runs the old bundle by revision 5 of fence 7."""
    rig = start(tmp_path)
    rig.engine.offer(Desired(5, wish(OLD), fence=7))
    rig.settle()
    return rig


def start(folder: Path) -> Rig:
    """One start of the agent on the folder's state."""
    root = folder / "state"
    root.mkdir(exist_ok=True)
    rig = Rig(Disk(), root, MemoryRepository(TINY, TINY_NEXT))
    rig.engine.recover()
    return rig


def codes(rig: Rig) -> list[str]:
    """What the device says that it waits for."""
    return [wait.reason.code for wait in rig.engine.waits()]


@pytest.mark.parametrize(
    ("desired", "verdict"),
    [
        (Desired(6, wish(NEW), fence=7), "newer"),
        (Desired(5, wish(OLD), fence=7), "same"),
        (Desired(5, wish(OLD), fence=7, at=9.0), "same"),
        (Desired(5, wish(NEW), fence=7), "other-content"),
        (Desired(4, wish(OLD), fence=7), "old-revision"),
        (Desired(5 + limits.MAX_REVISION_STEP, fence=7), "newer"),
        (Desired(6 + limits.MAX_REVISION_STEP, fence=7), "revision-jump"),
        (Desired(HIGHEST, fence=7), "revision-jump"),
        (Desired(6, wish(NEW), fence=6), "old-fence"),
        (Desired(6, wish(NEW)), "old-fence"),
        (Desired(1, wish(NEW), fence=8), "newer"),
        (Desired(limits.MAX_FIRST_REVISION, fence=8), "newer"),
        (Desired(HIGHEST, fence=8), "revision-jump"),
        (Desired(1, fence=7 + limits.MAX_FENCE_STEP), "newer"),
        (Desired(1, fence=8 + limits.MAX_FENCE_STEP), "fence-jump"),
        (Desired(1, fence=HIGHEST), "fence-jump"),
    ],
)
def test_a_document_counts_when_it_is_newer_by_a_step_that_is_no_attack(
    desired: Desired, verdict: str
) -> None:
    """By fence first, by revision then; what does not count is named."""
    found = judge(desired, Desired(5, wish(OLD), fence=7))
    assert (found.code if isinstance(found, ErrorInfo) else found) == verdict


def test_a_controller_without_a_fence_may_leap_to_the_seconds_since_the_epoch() -> None:
    """As earlier versions do after a restore; what it cannot is use all revisions up at once."""
    known = Desired(5, wish(OLD))
    assert judge(Desired(1_800_000_000, wish(OLD)), known) == "newer"
    assert isinstance(judge(Desired(HIGHEST, wish(OLD)), known), ErrorInfo)
    assert judge(Desired(1, fence=1_800_000_000), Desired(HIGHEST)) == "newer"


@given(
    st.lists(st.tuples(st.integers(0, HIGHEST), st.integers(1, HIGHEST)), max_size=30),
)
def test_after_any_documents_the_next_owner_is_heard(sent: list[tuple[int, int]]) -> None:
    """However they were forged, as long as nobody sends millions of them."""
    known: Desired | None = None
    for fence, revision in sent:
        document = Desired(revision, fence=fence)
        if judge(document, known) == "newer":
            known = document
    if known is not None:
        assert judge(Desired(1, fence=known.fence + 1), known) == "newer"
        assert known.fence <= len(sent) * limits.MAX_FENCE_STEP


def test_a_revision_that_would_shut_out_all_later_ones_is_refused_and_told(rig: Rig) -> None:
    """With what came and what counts; the next good document ends it."""
    rig.engine.offer(Desired(HIGHEST, wish(NEW), fence=7))
    rig.settle()
    assert rig.active() == OLD
    (wait,) = rig.engine.waits()
    assert wait.reason.code == "revision-jump"
    assert wait.reason.detail == {
        "fence": 7, "revision": HIGHEST, "known_fence": 7, "known_revision": 5,
    }  # fmt: skip
    rig.engine.offer(Desired(6, wish(NEW), fence=7))
    rig.settle()
    assert rig.active() == NEW
    assert rig.engine.waits() == []


def test_a_refused_document_does_not_hide_one_that_came_just_before(rig: Rig) -> None:
    """The good one waits to be taken while the other arrives."""
    rig.engine.offer(Desired(6, wish(NEW), fence=7))
    rig.engine.offer(Desired(HIGHEST, wish(OLD), fence=7))
    rig.engine.offer(Desired(3, wish(OLD), fence=7))
    rig.settle()
    assert rig.active() == NEW
    assert codes(rig) == ["old-revision"]


def test_the_right_document_at_the_broker_again_ends_the_complaint(rig: Rig) -> None:
    """The controller writes over what stood there, and says nothing new."""
    told: list[list[str]] = []
    rig.engine._ledger._changed = lambda: told.append(codes(rig))
    rig.engine.offer(Desired(HIGHEST, fence=7))
    rig.settle()
    rig.engine.offer(Desired(HIGHEST, fence=7))  # again with the next connection
    rig.settle()
    rig.engine.offer(Desired(5, wish(OLD), fence=7))
    rig.settle()
    assert told == [["revision-jump"], []]
    assert rig.active() == OLD


def test_a_newer_fence_undoes_what_a_revision_did_also_after_a_restart(
    rig: Rig, tmp_path: Path
) -> None:
    """Within the step it was taken; the next owner begins at its own revision."""
    rig.engine.offer(Desired(9000, {}, fence=7))
    rig.settle()
    assert rig.engine.slots() == {}
    rig.engine.offer(Desired(6, wish(OLD), fence=7))
    rig.settle()
    assert codes(rig) == ["old-revision"]
    rig.close()
    again = start(tmp_path)
    again.engine.offer(Desired(6, wish(OLD), fence=8))
    again.settle()
    assert again.active() == OLD
    journal = again.engine.journal
    assert (journal.reached, journal.desired.fence if journal.desired else 0) == (6, 8)


def test_a_newer_fence_says_nothing_as_reached_before_it_is(rig: Rig) -> None:
    """A revision of an older fence may be higher: whoever waits for 4 must not read 5."""
    reached: list[int] = []
    rig.engine._ledger._changed = lambda: reached.append(rig.engine.journal.reached)
    rig.engine.offer(Desired(4, wish(NEW), fence=8))
    rig.settle()
    assert set(reached) == {0, 4}


def test_an_update_of_an_older_fence_gives_way_to_a_lower_revision_of_a_newer(rig: Rig) -> None:
    """What is wanted decides, not the number that once asked for it."""
    rig.engine.offer(Desired(900, {"classify": DesiredBundle(NEW, trial=TrialRules())}, fence=7))
    for _ in range(100):
        rig.engine.step()
        if rig.engine.slots()["classify"].trial:
            break
    rig.engine.offer(Desired(6, wish(OLD), fence=8))
    rig.settle()
    assert rig.active() == OLD
    assert rig.engine.journal.reached == 6


def test_what_is_no_document_is_told(rig: Rig) -> None:
    """The broker keeps it, and nobody else would say why nothing happens."""
    rig.engine.refuse(ErrorInfo("bad-desired", "a desired document is not valid", {}))
    rig.settle()
    assert codes(rig) == ["bad-desired"]


def test_a_person_at_the_device_makes_the_next_document_count(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After so many forged ones that no owner gets above them; what is installed serves on."""
    journal = rig.engine.journal
    rig.engine._ledger.journal = msgspec.structs.replace(
        journal, desired=Desired(7, wish(OLD), fence=HIGHEST)
    )
    rig.engine._ledger.save(rig.engine.journal)
    rig.close()
    config = AgentConfig(
        fleet="f", device="d", board="raspberry-pi-5", trust_root="{}", state_dir="state"
    )
    path = tmp_path / "agent.yaml"
    path.write_bytes(to_yaml(config))
    assert main(["forget", "--config", str(path)]) == 0
    assert f"fence {HIGHEST}, revision 7" in capsys.readouterr().out
    again = start(tmp_path)
    assert again.active() == OLD
    again.engine.offer(Desired(1, wish(NEW), fence=9))
    again.settle()
    assert again.active() == NEW
    held = StateFolder(tmp_path / "state")
    assert main(["forget", "--config", str(path)]) == 1
    assert "another agent runs" in capsys.readouterr().err
    held.close()


def test_a_document_that_comes_again_before_it_is_written_down_interrupts_nothing() -> None:
    """The broker sends it as what it retains and as what is new: the second breaks nothing off."""
    inbox = Inbox(lambda: None, FakeClock())
    desired = Desired(5, wish(OLD), fence=7)
    assert inbox.offer(desired)
    assert inbox.take() == desired
    assert inbox.offer(desired), "it is the one that counts"
    assert not inbox.waiting
    assert inbox.offer(msgspec.structs.replace(desired, revision=6))
    assert inbox.waiting


def test_a_document_that_could_not_be_written_down_is_taken_again() -> None:
    """The disk refused: what was taken does not count, and comes first."""
    inbox = Inbox(lambda: None, FakeClock())
    desired = Desired(5, wish(OLD), fence=7)
    inbox.offer(desired)
    inbox.take()
    inbox.give_back(desired)
    assert inbox.take() == desired
