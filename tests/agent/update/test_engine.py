"""The update engine in one process: outcomes, reasons, deltas, space, shadow mode.

Over 400 lines: every outcome is that of the same rig.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.system.filesystem import Disk
from agent.update import delta as apply_delta
from agent.update.fetch import Transfer
from agent.update.journal import NAMES, Record
from contracts import board as boards
from contracts import codec
from contracts.answers import Selftested
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import RefusedError, UnavailableError
from contracts.manifest import Manifest
from contracts.messages import BundleRef
from fleet.repository import delta
from tests.support.bundles import rewrite
from tests.support.controller import TINY, TINY_NEXT
from tests.support.engine import MemoryRepository, Rig

OLD = Bundle.open(TINY).ref
NEW = Bundle.open(TINY_NEXT).ref


@pytest.fixture
def repository() -> MemoryRepository:
    """Both tiny bundles."""
    return MemoryRepository(TINY, TINY_NEXT)


@pytest.fixture
def rig(tmp_path: Path, repository: MemoryRepository) -> Rig:
    """A device that runs the old bundle."""
    rig = start(tmp_path, repository)
    rig.want(OLD, 1)
    rig.settle()
    rig.events.clear()
    return rig


def start(folder: Path, repository: MemoryRepository, **options: object) -> Rig:
    """One start of the agent on the folder's state."""
    root = folder / "state"
    root.mkdir(exist_ok=True)
    rig = Rig(Disk(), root, repository, **options)
    rig.engine.recover()
    return rig


def variant(folder: Path, version: str, **changes: object) -> Bundle:
    """The new tiny bundle with its manifest changed."""
    Bundle.open(TINY_NEXT).extract(folder)
    return rewrite(Bundle.open(folder), version=version, **changes)


def outcome(rig: Rig) -> tuple[str, str]:
    """State and reason of the last update."""
    event = rig.events[-1]
    return event.state, event.reason.code if event.reason else ""


def test_every_state_is_told_once_in_order(rig: Rig) -> None:
    """The events of a good update."""
    rig.want(NEW, 2)
    rig.settle()
    states = [e.state for e in rig.events]
    assert states == ["downloading", "verified", "fits", "self-tested", "trial", "committed"]
    assert [e.seq for e in rig.events] == list(range(rig.events[0].seq, rig.events[0].seq + 6))
    assert rig.events[3].golden_accuracy == 1.0
    assert rig.engine.journal.reached == 2


class Told:
    """What the reported document would have said at each telling."""

    def __init__(self, folder: Path, repository: MemoryRepository) -> None:
        self.said: list[tuple[str, int]] = []
        self.rig = start(folder, repository, changed=self._changed)

    def _changed(self) -> None:
        journal = self.rig.engine.journal
        self.said.append((journal.update.state if journal.update else "", journal.reached))


def test_what_the_device_has_is_told_in_the_states_that_last(
    tmp_path: Path, repository: MemoryRepository
) -> None:
    """Not in those that the next step ends; the end with the revision that it reached."""
    told = Told(tmp_path, repository)
    told.rig.want(OLD, 1)
    told.rig.settle()
    assert told.said == [("downloading", 0), ("fits", 0), ("trial", 0), ("committed", 1)]


def test_a_refusal_is_told_with_the_revision_that_it_ends(
    tmp_path: Path, repository: MemoryRepository
) -> None:
    """One telling more than the beginning."""
    told = Told(tmp_path, repository)
    told.rig.want(BundleRef("tiny-classifier", "7.0.0", "0" * 64), 1)
    told.rig.settle()
    assert told.said == [("downloading", 0), ("refused", 1)]


def test_an_end_is_told_though_its_revision_was_reached_before(
    tmp_path: Path, repository: MemoryRepository
) -> None:
    """A damaged bundle is fetched again without a new document, and its waste collected."""
    told = Told(tmp_path, repository)
    told.rig.want(OLD, 1)
    told.rig.settle()
    told.said.clear()
    engine = told.rig.engine
    waste = engine.store.root / "blobs" / ("f" * 64)
    selftest = engine._selftest

    def wasteful(folder: Path) -> Selftested:
        waste.write_bytes(b"needed by nothing")
        return selftest(folder)

    engine._selftest = wasteful
    engine.store.drop_damaged(OLD.manifest_sha256)
    told.rig.settle()
    assert not waste.exists()
    assert told.said[-1] == ("committed", 1) and told.said[0] == ("downloading", 1)


class Journals(Disk):
    """Keeps the update's state of every journal that was written."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def write(self, path: Path, data: bytes) -> None:
        """As the disk."""
        if path.name in NAMES:
            _, _, record = data.partition(b"\n")
            update = codec.decode(record, Record, what="the journal").journal.update
            self.states.append(update.state if update else "")
        super().write(path, data)


def test_an_update_begins_with_the_write_of_its_document(
    tmp_path: Path, repository: MemoryRepository
) -> None:
    """A write a state, and one for the revision that was reached."""
    disk = Journals()
    rig = Rig(disk, tmp_path, repository)
    rig.engine.recover()
    rig.want(OLD, 1)
    rig.settle()
    states = ["downloading", "verified", "fits", "self-tested", "trial", "committed", "committed"]
    assert disk.states == states


def test_a_bundle_that_is_not_published_is_refused_by_name(rig: Rig) -> None:
    """The reason of the trust reaches the controller."""
    rig.want(BundleRef("tiny-classifier", "7.0.0", "0" * 64), 2)
    rig.settle()
    assert outcome(rig) == ("refused", "not-published")
    assert rig.active() == OLD


def test_a_refused_bundle_is_not_tried_again_until_a_new_revision(
    rig: Rig, repository: MemoryRepository
) -> None:
    """No loop over a bad bundle; a new revision is a new chance."""
    missing = BundleRef("tiny-classifier", "7.0.0", "0" * 64)
    rig.want(missing, 2)
    rig.settle()
    count = len(rig.events)
    rig.want(missing, 2)
    rig.settle()
    assert len(rig.events) == count
    rig.want(missing, 3)
    rig.settle()
    assert len(rig.events) > count


def test_an_older_revision_is_ignored(rig: Rig) -> None:
    """Revisions only grow."""
    rig.want(NEW, 5)
    rig.settle()
    rig.want(OLD, 4)
    rig.settle()
    assert rig.active() == NEW


def test_wrong_bytes_from_the_repository_are_refused(
    rig: Rig, repository: MemoryRepository
) -> None:
    """A file whose sha256 is not the signed one never becomes a blob."""
    entry = Bundle.open(TINY_NEXT).entry("model.tflite")
    data = bytearray(repository.files[f"blobs/{entry.sha256}"])
    data[100] ^= 1
    repository.files[f"blobs/{entry.sha256}"] = bytes(data)
    rig.want(NEW, 2)
    rig.settle()
    assert outcome(rig) == ("refused", "wrong-file")
    assert rig.answer().bundle == OLD


def test_a_file_of_another_size_is_refused_before_it_is_read(
    rig: Rig, repository: MemoryRepository
) -> None:
    """Endless data is not even begun."""
    entry = Bundle.open(TINY_NEXT).entry("model.tflite")
    repository.files[f"blobs/{entry.sha256}"] += b"x" * 1000
    sent = repository.sent
    rig.want(NEW, 2)
    rig.settle()
    assert outcome(rig) == ("refused", "wrong-file")
    assert repository.sent - sent < entry.size


def test_a_transfer_that_breaks_resumes_at_the_byte(
    rig: Rig, repository: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every break costs nothing that had arrived."""
    real = repository.open
    entry = Bundle.open(TINY_NEXT).entry("model.tflite")

    def breaking(path: str, offset: int = 0) -> Transfer:
        transfer = real(path, offset)

        def pieces() -> object:
            for count, piece in enumerate(transfer.chunks):
                if count == 2:
                    raise UnavailableError("repository-unreachable", "cut")
                yield piece

        return Transfer(transfer.total, pieces())  # type: ignore[arg-type]

    monkeypatch.setattr(repository, "open", breaking)
    rig.want(NEW, 2)
    rig.settle()
    assert outcome(rig) == ("committed", "")
    offsets = [offset for path, offset in repository.reads if path.endswith(entry.sha256)]
    assert offsets == list(range(0, entry.size, 8192))


def test_a_delta_is_taken_when_there_is_one_and_the_whole_file_when_it_is_wrong(
    rig: Rig, repository: MemoryRepository
) -> None:
    """Bytes on the wire shrink; a delta that gives another file is not trusted."""
    old, new = Bundle.open(TINY), Bundle.open(TINY_NEXT)
    packed = {}
    for name in ("model.tflite", "golden.json"):
        patch = delta.make(old.read(name), new.read(name))
        assert patch is not None
        packed[name] = patch
        path = apply_delta.path(old.entry(name).sha256, new.entry(name).sha256)
        repository.files[path] = patch
    sent = repository.sent
    rig.want(NEW, 2)
    rig.settle()
    assert outcome(rig) == ("committed", "")
    assert repository.sent - sent == sum(map(len, packed.values()))
    # Back to the old bundle is on disk; then a delta that lies.
    rig.want(OLD, 3)
    rig.settle()
    assert rig.active() == OLD


@pytest.mark.parametrize("lie", ["damaged", "of other files", "empty", "endless"])
def test_a_delta_that_lies_costs_only_its_bytes(
    rig: Rig, repository: MemoryRepository, lie: str
) -> None:
    """Any mismatch means the full file."""
    old, new = Bundle.open(TINY), Bundle.open(TINY_NEXT)
    a, b = old.read("model.tflite"), new.read("model.tflite")
    good = delta.make(a, b)
    assert good is not None
    import zstandard

    patches = {
        "damaged": good[: len(good) // 2] + b"\0" * 8 + good[len(good) // 2 :],
        "of other files": zstandard.compress(a),
        "empty": b"",
        "endless": zstandard.compress(b"\0" * 50_000_000),
    }
    path = apply_delta.path(old.entry("model.tflite").sha256, new.entry("model.tflite").sha256)
    repository.files[path] = patches[lie]
    rig.want(NEW, 2)
    rig.settle()
    assert outcome(rig) == ("committed", "")


def test_a_shared_file_is_not_fetched_twice(
    rig: Rig, repository: MemoryRepository, tmp_path: Path
) -> None:
    """A next version with the same model fetches its golden vectors alone."""
    folder = tmp_path / "same"
    Bundle.open(TINY).extract(folder)
    golden = codec.pretty(Bundle.open(folder).golden())
    (folder / "golden.json").write_bytes(golden)
    files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
    ref = repository.add(rewrite(Bundle.open(folder), version="1.0.1", files=files).path)
    sent = repository.sent
    rig.want(ref, 2)
    rig.settle()
    assert outcome(rig) == ("committed", "")
    assert repository.sent - sent == len(golden)


def test_collection_keeps_current_and_previous_alone(
    rig: Rig, repository: MemoryRepository, tmp_path: Path
) -> None:
    """After two updates the first bundle's files are gone; the others are whole."""
    third = repository.add(variant(tmp_path / "third", "1.2.0").path)
    for revision, ref in ((2, NEW), (3, third)):
        rig.want(ref, revision)
        rig.settle()
    report = rig.engine.store.report("classify")
    assert (report.active, report.previous) == (third, NEW)
    root = tmp_path / "state"
    wanted = {e.sha256 for e in Bundle.open(TINY_NEXT).manifest.files}
    assert {p.name for p in (root / "blobs").iterdir()} == wanted
    assert len(list((root / "releases").iterdir())) == 2


def test_a_disk_without_room_is_told_before_the_first_byte(
    tmp_path: Path, repository: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched; the reason says how much is missing; room later lets it finish."""
    rig = start(tmp_path, repository)
    monkeypatch.setattr(Disk, "free_bytes", lambda *_: 1000)
    rig.want(OLD, 1)
    for _ in range(5):
        rig.engine.step()
    assert rig.events[-1].reason is not None
    assert rig.events[-1].reason.code == "disk-full"
    assert repository.sent == 0
    monkeypatch.undo()
    rig.settle()
    assert outcome(rig) == ("committed", "")


def test_a_disk_that_stays_full_is_waited_for(
    tmp_path: Path, repository: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long: somebody may make room, and until then the reason says how much it takes."""
    rig = start(tmp_path, repository)
    monkeypatch.setattr(Disk, "free_bytes", lambda *_: 1_000_000)
    rig.want(OLD, 1)
    for _ in range(100):
        rig.clock.now += rig.engine.step() or 0
    state, reason = rig.events[-1].state, rig.events[-1].reason
    assert state == "downloading" and reason is not None and reason.code == "disk-full"
    assert "needs 8.4 MB, 1.0 MB are free" in reason.message
    monkeypatch.undo()
    rig.settle()
    assert outcome(rig) == ("committed", "")


def test_a_board_that_gives_models_too_little_disk_refuses(
    tmp_path: Path, repository: MemoryRepository
) -> None:
    """The board's share of the disk counts, not only what is free."""
    board = msgspec.structs.replace(boards.load("raspberry-pi-5"), model_flash_bytes=20_000)
    rig = start(tmp_path, repository, board=board)
    rig.want(OLD, 1)
    rig.settle()
    assert outcome(rig) == ("refused", "does-not-fit")


def test_a_bundle_for_another_board_is_refused(
    rig: Rig, repository: MemoryRepository, tmp_path: Path
) -> None:
    """The reason names the boards."""
    ref = repository.add(variant(tmp_path / "v", "2.0.0", boards=["jetson-orin-nano"]).path)
    rig.want(ref, 2)
    rig.settle()
    assert outcome(rig) == ("refused", "does-not-fit")
    assert "jetson-orin-nano" in str(rig.events[-1].reason)


def test_a_bundle_that_needs_more_memory_than_there_is_is_refused(
    rig: Rig, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Measured memory counts."""
    model = msgspec.structs.replace(Bundle.open(TINY_NEXT).manifest.model, peak_rss_bytes=2 << 30)
    ref = repository.add(variant(tmp_path / "v", "2.0.0", model=model).path)
    rig.want(ref, 2)
    rig.settle()
    assert outcome(rig) == ("refused", "does-not-fit")


def test_errors_in_the_trial_roll_back_with_the_reason(rig: Rig) -> None:
    """The health rule of errors."""
    rig.want(NEW, 2, trial=TrialRules(seconds=60, min_requests=5, max_error_rate=0.2))
    step_to(rig, "trial")
    for number in range(10):
        if number < 4:
            rig.recorder.failed("classify", "model-failed")
        else:
            rig.recorder.answered("classify", NEW, 100.0)
    rig.settle()
    assert outcome(rig) == ("rolled-back", "trial-errors")
    assert rig.active() == OLD
    assert rig.answer().bundle == OLD
    assert rig.engine.store.report("classify").previous is None


def test_latency_in_the_trial_rolls_back_with_the_reason(rig: Rig) -> None:
    """The health rule of latency."""
    rig.want(NEW, 2, trial=TrialRules(seconds=60, min_requests=5, max_latency_p95_us=1000))
    step_to(rig, "trial")
    for _ in range(20):
        rig.recorder.answered("classify", NEW, 5000.0)
    rig.settle()
    assert outcome(rig) == ("rolled-back", "trial-latency")


def test_memory_in_the_trial_rolls_back_with_the_reason(
    tmp_path: Path, repository: MemoryRepository
) -> None:
    """The health rule of memory."""
    rig = start(tmp_path, repository, rss=lambda: 500_000_000)
    rig.want(OLD, 1, trial=TrialRules(seconds=60, max_rss_bytes=100_000_000))
    rig.settle()
    assert outcome(rig) == ("rolled-back", "trial-memory")
    assert rig.active() is None


def test_the_third_restart_in_a_trial_rolls_back(
    rig: Rig, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Two restarts are forgiven, the third is not; the old bundle serves at once."""
    rig.want(NEW, 2, trial=TrialRules(seconds=60, max_restarts=3))
    step_to(rig, "trial")
    for restart in range(1, 4):
        rig = start(tmp_path, repository)
        assert rig.answer().bundle == (NEW if restart < 3 else OLD)
    rig.settle()
    assert outcome(rig) == ("rolled-back", "trial-restarts")
    assert rig.active() == OLD


def test_a_newer_wish_in_a_trial_rolls_back_first(rig: Rig) -> None:
    """An aborted rollout takes its bundle back although its trial was fine."""
    rig.want(NEW, 2, trial=TrialRules(seconds=1000))
    step_to(rig, "trial")
    rig.want(OLD, 3)
    rig.settle()
    assert outcome(rig) == ("rolled-back", "superseded")
    assert rig.active() == OLD
    assert rig.engine.journal.reached == 3


def test_a_model_that_does_not_load_is_rolled_back(
    rig: Rig, repository: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passed its self-test in the child, and still does not load here."""
    real = rig.models.activate

    def activate(slot: str, folder: Path | None) -> None:
        if folder is not None and folder.name == NEW.manifest_sha256:
            raise RefusedError("model-failed", "no")
        real(slot, folder)

    monkeypatch.setattr(rig.models, "activate", activate)
    rig.want(NEW, 2)
    rig.settle()
    assert outcome(rig) == ("rolled-back", "model-failed")
    assert rig.answer().bundle == OLD


def test_a_damaged_current_bundle_gives_way_to_the_previous_and_comes_again(
    rig: Rig, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Bits that rot on the disk are found at the start, and fetched again."""
    rig.want(NEW, 2)
    rig.settle()
    rig.close()
    blob = tmp_path / "state" / "blobs" / Bundle.open(TINY_NEXT).entry("model.tflite").sha256
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    rig = start(tmp_path, repository)
    assert rig.answer().bundle == OLD
    rig.settle()
    assert rig.active() == NEW
    assert rig.answer().bundle == NEW


def test_a_shadow_bundle_is_loaded_beside_and_goes_when_it_is_no_longer_wanted(rig: Rig) -> None:
    """Shadow mode changes nothing that users see, and promotion fetches nothing."""
    rig.want(NEW, 2, mode="shadow")
    rig.settle()
    assert outcome(rig) == ("committed", "")
    report = rig.engine.store.report("classify")
    assert (report.active, report.shadow) == (OLD, NEW)
    assert rig.answer().bundle == OLD
    with rig.models.use("classify/shadow") as model:
        assert model.ref == NEW
    sent = rig.repository.sent
    rig.want(NEW, 3)
    rig.settle()
    assert rig.repository.sent == sent
    report = rig.engine.store.report("classify")
    assert (report.active, report.shadow) == (NEW, None)
    assert rig.models.slots == ["classify"]


def test_two_slots_are_updated_one_after_the_other(
    tmp_path: Path, repository: MemoryRepository
) -> None:
    """One desired document, two models."""
    rig = start(tmp_path, repository)
    trial = TrialRules(seconds=0)
    wishes = {"one": DesiredBundle(OLD, trial=trial), "two": DesiredBundle(NEW, trial=trial)}
    rig.engine.offer(Desired(1, wishes))
    rig.settle()
    reports = rig.engine.slots()
    assert (reports["one"].active, reports["two"].active) == (OLD, NEW)
    assert rig.models.slots == ["one", "two"]


def step_to(rig: Rig, state: str) -> None:
    """Steps until the update is in a state."""
    for _ in range(50):
        update = rig.engine.journal.update
        if update is not None and update.state == state:
            return
        rig.engine.step()
    raise AssertionError(f"never {state}: {rig.engine.journal.update}")


def test_a_manifest_of_another_bundle_is_refused(rig: Rig, repository: MemoryRepository) -> None:
    """What the trust hands out must be what was asked for."""
    repository.manifests[NEW] = Bundle.open(TINY).manifest_bytes
    rig.want(NEW, 2)
    rig.settle()
    assert outcome(rig) == ("refused", "wrong-manifest")
    assert isinstance(codec.decode(repository.manifests[NEW], Manifest, what="x"), Manifest)


def empty(rig: Rig, revision: int) -> None:
    """Offers a document that names no slot."""
    rig.engine.offer(Desired(revision))


def test_a_slot_that_is_not_desired_serves_nothing(rig: Rig, tmp_path: Path) -> None:
    """Its only bundle is gone: from service, from the report, from the disk."""
    empty(rig, 2)
    rig.settle()
    assert rig.models.slots == []
    assert rig.engine.slots() == {}
    assert rig.engine.journal.reached == 2
    root = tmp_path / "state"
    assert list((root / "blobs").iterdir()) == list((root / "releases").iterdir()) == []
    rig.want(OLD, 3)
    rig.settle()
    assert rig.active() == OLD
    assert rig.answer()


def test_a_slot_is_emptied_of_its_shadow_and_its_previous_bundle_too(rig: Rig) -> None:
    """Nothing of it is loaded or linked any more."""
    rig.want(NEW, 2)
    rig.settle()
    rig.want(OLD, 3, mode="shadow")
    rig.settle()
    assert rig.models.slots == ["classify", "classify/shadow"]
    empty(rig, 4)
    rig.settle()
    assert rig.models.slots == []
    assert rig.engine.store.slots() == []


def test_an_emptied_slot_is_told_with_the_revision_that_empties_it(
    tmp_path: Path, repository: MemoryRepository
) -> None:
    """Whoever waits for the bundle to be gone reads it in the reported document."""
    said: list[tuple[list[str], int]] = []
    rig = start(
        tmp_path,
        repository,
        changed=lambda: said.append((sorted(rig.engine.slots()), rig.engine.journal.reached)),
    )
    rig.want(OLD, 1)
    rig.settle()
    said.clear()
    empty(rig, 2)
    rig.settle()
    assert said == [([], 2)]


def test_a_slot_that_is_no_longer_wanted_in_its_trial_is_emptied(rig: Rig) -> None:
    """The update ends first, by its rules; what ran before does not come back to stay."""
    rig.want(NEW, 2, trial=TrialRules(seconds=1000))
    step_to(rig, "trial")
    empty(rig, 3)
    rig.settle()
    assert outcome(rig) == ("rolled-back", "superseded")
    assert rig.models.slots == []
    assert rig.engine.slots() == {}


def test_a_slot_that_was_being_emptied_when_the_power_went_is_not_loaded_again(
    rig: Rig, tmp_path: Path, repository: MemoryRepository
) -> None:
    """It may be what made the device die; the next start goes on with emptying it."""
    empty(rig, 2)
    rig.engine._accept()  # the power goes after its one write
    rig.close()
    again = start(tmp_path, repository)
    assert again.models.slots == []
    again.settle()
    assert again.engine.slots() == {}
    assert again.engine.journal.reached == 2


def test_what_an_agent_was_never_told_about_stays(rig: Rig) -> None:
    """Without any document nothing is emptied: a lost journal costs no model."""
    rig.engine._ledger.journal = msgspec.structs.replace(rig.engine.journal, desired=None)
    rig.settle()
    assert rig.active() == OLD


def test_one_slot_is_emptied_while_the_other_goes_on(rig: Rig) -> None:
    """Emptying is a matter of the slot, also when a model moves from one to the other."""
    rig.engine.offer(Desired(2, {"other": DesiredBundle(OLD, trial=TrialRules(seconds=0))}))
    rig.settle()
    assert rig.models.slots == ["other"]
    assert set(rig.engine.slots()) == {"other"}


def test_a_slot_whose_disk_refuses_to_empty_it_serves_nothing_and_says_so(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is emptied when the disk can; meanwhile the report does not name it as active."""
    real = rig.engine.store.empty

    def refuse(slot: str) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(rig.engine.store, "empty", refuse)
    empty(rig, 2)
    pause = rig.engine.step()
    assert pause is not None and pause > 0
    slot = rig.engine.slots()["classify"]
    assert (slot.active, slot.problem.code if slot.problem else "") == (None, "disk-error")
    assert rig.models.slots == []
    monkeypatch.setattr(rig.engine.store, "empty", real)
    rig.settle()
    assert rig.engine.slots() == {}


def test_a_shadow_names_what_has_to_be_active_beside_it(rig: Rig) -> None:
    """Both come; what is active already is left alone."""
    both = DesiredBundle(NEW, "shadow", TrialRules(seconds=0), beside=OLD)
    rig.engine.offer(Desired(2, {"classify": both}))
    rig.settle()
    assert [e.state for e in rig.events] == [
        "downloading", "verified", "fits", "self-tested", "committed",
    ]  # fmt: skip
    report = rig.engine.slots()["classify"]
    assert (report.active, report.shadow) == (OLD, NEW)
    other = DesiredBundle(OLD, "shadow", TrialRules(seconds=0), beside=NEW)
    rig.engine.offer(Desired(3, {"classify": other}))
    rig.settle()
    report = rig.engine.slots()["classify"]
    assert (report.active, report.shadow) == (NEW, OLD)


def test_a_shadow_that_is_refused_leaves_none_and_is_not_tried_again(rig: Rig) -> None:
    """Nor is the one before, which is not desired any more; the active bundle stays."""
    rig.want(NEW, 2, mode="shadow")
    rig.settle()
    missing = BundleRef("tiny-classifier", "9.0.0", "0" * 64)
    gone = BundleRef("tiny-classifier", "8.0.0", "1" * 64)
    wish = DesiredBundle(missing, "shadow", TrialRules(seconds=0), beside=gone)
    rig.events.clear()
    rig.engine.offer(Desired(3, {"classify": wish}))
    rig.settle()
    assert [(e.bundle, e.state) for e in rig.events if e.state == "refused"] == [
        (gone, "refused"), (missing, "refused"),
    ]  # fmt: skip
    report = rig.engine.slots()["classify"]
    assert (report.active, report.shadow) == (OLD, None)
    assert rig.engine.journal.reached == 3
