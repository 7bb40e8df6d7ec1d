"""Adapters by the update engine: beside their base, in any order, and never without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.system.filesystem import Disk
from contracts import board as boards
from contracts.bundle import Bundle
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import ErrorInfo, UnavailableError
from contracts.messages import BundleRef
from contracts.requests import GenerateRequest
from model_builder.generate.adapt import AdapterOptions, import_adapter
from tests.support.adapters import untrue, write_adapter
from tests.support.bundles import rewrite
from tests.support.engine import MemoryRepository, Rig
from tests.support.tiny_decoder import tiny_bundle, tiny_weights

QUICK = TrialRules(seconds=1.0)
GOLDEN = ("the quick brown fox", "the lazy dog", "name", "count 12")


class Kit:
    """A base, its next version (the same model), and adapters of both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        base = tiny_bundle(folder / "base", contexts=(32,), adapters=4)
        again = folder / "again"
        Bundle.open(base).extract(again)
        rewrite(Bundle.open(again), version="1.1.0")
        self.base, self.next = Bundle.open(base), Bundle.open(again)
        peft = write_adapter(folder / "home", tiny_weights(), size=0.3)
        other = write_adapter(folder / "other", tiny_weights(), seed=7, size=0.3)

        def adapter(source: Path, of: Bundle, version: str) -> Bundle:
            options = AdapterOptions(name="home", version=version, golden=GOLDEN)
            out = folder / f"{source.name}-{version}"
            return Bundle.open(import_adapter(source, of.path, out, options).bundle)

        self.home = adapter(peft, self.base, "1.0.0")
        self.better = adapter(other, self.base, "1.1.0")
        self.home_next = adapter(peft, self.next, "2.0.0")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Made once."""
    return Kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture
def repository(kit: Kit) -> MemoryRepository:
    """All of them published."""
    bundles = (kit.base, kit.next, kit.home, kit.better, kit.home_next)
    return MemoryRepository(*(bundle.path for bundle in bundles))


def start(folder: Path, repository: MemoryRepository) -> Rig:
    """One start of the agent on the folder's state."""
    root = folder / "state"
    root.mkdir(exist_ok=True)
    rig = Rig(Disk(), root, repository)
    rig.engine.recover()
    return rig


def want(rig: Rig, revision: int, trial: TrialRules = QUICK, **slots: Bundle) -> None:
    """Brings a device to these bundles."""
    wishes = {slot: DesiredBundle(bundle.ref, trial=trial) for slot, bundle in slots.items()}
    rig.engine.offer(Desired(revision, wishes))
    rig.settle()


def serving(rig: Rig) -> dict[str, BundleRef | None]:
    """What is reported to serve, by slot."""
    return {slot: report.active for slot, report in rig.engine.slots().items()}


def problem(rig: Rig, slot: str) -> ErrorInfo:
    """Why a slot serves nothing, as it is reported."""
    found = rig.engine.slots()[slot].problem
    assert found is not None
    return found


def answer(rig: Rig, slot: str) -> tuple[str, BundleRef]:
    """What a slot answers, and who."""
    with rig.models.use(slot) as model:
        found = model.generate(GenerateRequest(prompt="the quick brown fox", max_tokens=12))
    return found.text, found.bundle


def outcomes(rig: Rig) -> list[tuple[str, str, str]]:
    """Slot, last state and reason of each update, in order."""
    ends = ("committed", "refused", "rolled-back")
    return [
        (e.slot, e.state, e.reason.code if e.reason else "") for e in rig.events if e.state in ends
    ]


def test_an_adapter_goes_through_the_states_of_any_bundle(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Fetched alone, tested with its base, tried, committed; base and adapter answer."""
    rig = start(tmp_path, repository)
    want(rig, 1, generate=kit.base)
    rig.events.clear()
    before = repository.sent
    want(rig, 2, generate=kit.base, home=kit.home)
    states = [event.state for event in rig.events]
    assert states == ["downloading", "verified", "fits", "self-tested", "trial", "committed"]
    assert repository.sent - before == kit.home.manifest.total_bytes
    assert serving(rig) == {"generate": kit.base.ref, "home": kit.home.ref}
    plain, adapted = answer(rig, "generate"), answer(rig, "home")
    assert plain[1] == kit.base.ref and adapted[1] == kit.home.ref and plain[0] != adapted[0]
    want(rig, 3, generate=kit.base, home=kit.better)
    assert answer(rig, "home")[1] == kit.better.ref
    assert rig.engine.slots()["home"].previous == kit.home.ref
    want(rig, 4, generate=kit.base)
    assert serving(rig) == {"generate": kit.base.ref}
    rig.close()


def test_a_device_gets_base_and_adapter_in_one_document_in_any_order_of_their_slots(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """A slot that comes first is tried again when its base is there, and not before."""
    rig = start(tmp_path, repository)
    want(rig, 1, assistant=kit.home, generate=kit.base)
    assert outcomes(rig) == [
        ("assistant", "refused", "no-base"),
        ("generate", "committed", ""),
        ("assistant", "committed", ""),
    ]
    assert answer(rig, "assistant")[1] == kit.home.ref
    rig.close()


def test_an_adapter_of_another_base_is_refused_before_a_byte_of_it_is_fetched(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Once: what is wanted stays, and nothing is tried again until the base comes."""
    rig = start(tmp_path, repository)
    want(rig, 1, generate=kit.next)
    before = repository.sent
    want(rig, 2, generate=kit.next, home=kit.home)
    assert outcomes(rig)[-1] == ("home", "refused", "wrong-base")
    assert repository.sent == before
    assert serving(rig) == {"generate": kit.next.ref}
    rig.close()


def test_when_the_base_is_updated_its_adapter_is_not_served_and_that_is_said(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Nor after a restart; the new base's own takes its place, and the base may go back."""
    rig = start(tmp_path, repository)
    want(rig, 1, generate=kit.base, home=kit.home)
    want(rig, 2, generate=kit.next, home=kit.home)
    assert problem(rig, "home").code == "wrong-base"
    assert serving(rig) == {"generate": kit.next.ref, "home": None}
    with pytest.raises(UnavailableError):
        answer(rig, "home")
    rig.close()
    rig = start(tmp_path, repository)
    assert problem(rig, "home").code == "wrong-base"
    assert answer(rig, "generate")[1] == kit.next.ref
    want(rig, 3, generate=kit.next, home=kit.home_next)
    assert answer(rig, "home")[1] == kit.home_next.ref
    want(rig, 4, generate=kit.base, home=kit.home_next)
    assert problem(rig, "home").code == "wrong-base"
    want(rig, 5, generate=kit.base, home=kit.home)
    assert answer(rig, "home")[1] == kit.home.ref
    rig.close()


def test_after_a_start_without_its_base_an_adapter_serves_as_soon_as_that_comes(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """The base of the start is another one, and is updated while the agent runs."""
    rig = start(tmp_path, repository)
    want(rig, 1, generate=kit.base, home=kit.home)
    want(rig, 2, generate=kit.next, home=kit.home)
    rig.close()
    rig = start(tmp_path, repository)
    assert problem(rig, "home").code == "wrong-base"
    want(rig, 3, generate=kit.base, home=kit.home)
    assert answer(rig, "home")[1] == kit.home.ref
    assert rig.engine.slots()["home"].problem is None
    rig.close()


def test_a_restart_loads_the_base_first(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Though the adapter's slot comes before it."""
    rig = start(tmp_path, repository)
    want(rig, 1, assistant=kit.home, generate=kit.base)
    rig.close()
    rig = start(tmp_path, repository)
    assert serving(rig) == {"assistant": kit.home.ref, "generate": kit.base.ref}
    assert answer(rig, "assistant")[1] == kit.home.ref
    rig.close()


def test_a_trial_that_breaks_a_rule_goes_back_to_the_adapter_before(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Alone: the base and its own trial are not touched."""
    rig = start(tmp_path, repository)
    want(rig, 1, generate=kit.base, home=kit.home)
    rules = TrialRules(seconds=600, max_error_rate=0.1, min_requests=5)
    wishes = {
        "generate": DesiredBundle(kit.base.ref, trial=QUICK),
        "home": DesiredBundle(kit.better.ref, trial=rules),
    }
    rig.engine.offer(Desired(2, wishes))
    while rig.events[-1].state != "trial":
        rig.engine.step()
    for _ in range(8):
        rig.recorder.failed("home", "model-failed")
    rig.settle()
    assert outcomes(rig)[-1][:2] == ("home", "rolled-back")
    assert serving(rig) == {"generate": kit.base.ref, "home": kit.home.ref}
    assert answer(rig, "home")[1] == kit.home.ref
    rig.close()


def test_golden_vectors_that_do_not_hold_refuse_it(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """They were made with base and adapter together."""
    made = untrue(tmp_path / "wrong", kit.better, "3.0.0")
    repository.add(made.path)
    rig = start(tmp_path, repository)
    want(rig, 1, generate=kit.base, home=kit.home)
    want(rig, 2, generate=kit.base, home=made)
    assert outcomes(rig)[-1] == ("home", "refused", "golden-mismatch")
    assert answer(rig, "home")[1] == kit.home.ref
    rig.close()


def test_an_adapter_may_not_take_the_slot_of_its_base(
    kit: Kit, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Its base would be gone."""
    rig = start(tmp_path, repository)
    want(rig, 1, generate=kit.base)
    want(rig, 2, generate=kit.home)
    assert outcomes(rig)[-1] == ("generate", "refused", "no-base")
    assert answer(rig, "generate")[1] == kit.base.ref
    rig.close()


def test_a_board_that_runs_no_bases_takes_no_adapters(kit: Kit) -> None:
    """Microcontrollers say so before anything is sent to them."""
    found = [misfit.what for misfit in boards.misfits(kit.home.manifest, boards.load("esp32-s3"))]
    assert "adapters" in found
