"""The next version is made step by step: each is on the disk, and what was ended goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contracts.answers import FieldSample
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef
from fleet.folder import Fleet, FleetConfig
from fleet.improve import answers, steps
from fleet.improve.steps import Improvement
from fleet.improve.verdict import Answered
from fleet.improve.wish import State, Wish, active_spec, shadow_spec
from fleet.store import samples
from tests.support.bundles import noise_bundle

REF = BundleRef("noise", "1.0.0", "0" * 64)
WISH = Wish("recipe.yaml", shadow_s=0)


class Nobody:
    """A controller that knows no device."""

    def devices(self) -> list[Any]:
        """None."""
        return []


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet with one version, and labelled texts of it."""
    folder = tmp_path_factory.mktemp("improve")
    fleet = Fleet.init(folder / "fleet", FleetConfig("home"))
    fleet.publish(noise_bundle(folder / "one").path)
    store = fleet.open_store()
    ask = samples.Ask("a1", "noise", "all", 200, "", "ann", 1.0)
    with store.write() as connection:
        for number in range(40):
            text = f"text number {number}"
            one = FieldSample(f"{number:032x}", 1.0, text, "x", 0.3, REF, [])
            samples.add(store, connection, ask, "d1", [one], 1.0)
            samples.say(store, connection, "noise", samples.key_of(text), "ann", "a", 1.0)
    store.close()
    return fleet


class Bench:
    """One improvement, whose builder and models a test plays."""

    def __init__(self, fleet: Fleet, patch: pytest.MonkeyPatch, work: Path) -> None:
        self.fleet = fleet
        self.said: list[str] = []
        self.built: list[str] = []
        self.fails = False
        self.worse = False
        self.work = work
        patch.setattr(steps.Improvement, "build", self._build)
        patch.setattr(answers, "answered", self._answered)
        old = noise_bundle(work / "old").path
        patch.setattr(answers, "taken_out", lambda *_: Bundle.open(old))
        patch.setattr(answers, "read_rows", lambda _: [("a text", "a")] * 20)

    def _build(self, improvement: Improvement | None = None) -> None:
        state = self.one.state
        assert state is not None
        if state.step != "begun":
            return
        if self.fails:
            raise UnavailableError("build-failed", "no")
        self.built.append(state.version)
        path = self.work / f"noise-{state.version}"
        state.bundle = str(noise_bundle(path, version=state.version, seed=7).path)
        self.one._reach("built")

    def _answered(self, _old: Path, _new: Path, rows: list[tuple[str, str]]) -> list[Answered]:
        return [Answered(label, label, "?" if self.worse else label) for _, label in rows]

    def start(self, version: str | None = None) -> State:
        """As the command does, until it is published."""
        client: Any = Nobody()
        self.one = Improvement(self.fleet, client, "noise", self.said.append)
        with self.one.locked():
            self.one.begin(lambda last: last or WISH, version)
            return steps.run(self.one, lambda _: True, roll_out=False)


@pytest.fixture
def bench(template: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """On a fleet that all tests of this file share."""
    monkeypatch.setattr(steps, "FOLDER", f"improve-{tmp_path.name}")
    return Bench(template, monkeypatch, tmp_path)


def test_what_was_ended_goes_on_and_nothing_is_made_twice(bench: Bench) -> None:
    """A build that failed is tried again as the same version; what is there is not built again."""
    bench.fails = True
    with pytest.raises(ShoalError):
        bench.start()
    assert bench.one.state is not None
    version = bench.one.state.version
    bench.fails = False
    assert bench.start().version == version
    assert bench.start().version == version
    assert bench.built == [version]
    published = {str(ref) for ref in bench.fleet.open_repository().bundles()}
    assert f"noise {version}" in published
    assert any("going on" in line for line in bench.said)


def test_what_a_build_kept_elsewhere_is_there_for_the_next(bench: Bench, tmp_path: Path) -> None:
    """Of its teacher and of who wrote its text; what is newer here stays."""
    client: Any = Nobody()
    improvement = Improvement(bench.fleet, client, "noise", bench.said.append)
    kept, home = tmp_path / "out" / "cache", improvement._home / "cache"
    (kept / "pypi").mkdir(parents=True)
    (kept / "written-1.jsonl").write_text("a\n")
    (kept / "pypi" / "rows.npz").write_text("b")
    with improvement.locked():
        improvement.take_cache(kept)
        (home / "written-1.jsonl").write_text("a\nc\n")
        improvement.take_cache(kept)
    assert (home / "written-1.jsonl").read_text() == "a\nc\n"
    assert (home / "pypi" / "rows.npz").read_text() == "b"
    with pytest.raises(InputError, match="cache below --out"):
        improvement.take_cache(kept / "nothing")


def test_a_worse_version_is_not_signed_and_the_next_has_another_number(bench: Bench) -> None:
    """It says on which label; its number is not used again."""
    bench.worse = True
    with pytest.raises(RefusedError) as error:
        bench.start()
    assert error.value.code == "next-is-worse"
    assert "a 20 to 0 of 20" in str(error.value)
    assert bench.one.state is not None and bench.one.state.step == "stopped"
    stopped = bench.one.state.version
    published = {ref.version for ref in bench.fleet.open_repository().bundles()}
    assert stopped not in published
    bench.worse = False
    assert bench.start().version > stopped


def test_one_process_improves_a_model_at_a_time(bench: Bench) -> None:
    """The other is told so."""
    bench.start()
    other = Improvement(bench.fleet, Nobody(), "noise", bench.said.append)  # type: ignore[arg-type]
    with bench.one.locked(), pytest.raises(UnavailableError) as error, other.locked():
        pass
    assert error.value.code == "folder-busy"


@pytest.mark.parametrize("name", ["nothing", "unlabelled"])
def test_without_a_version_or_labels_nothing_begins(bench: Bench, name: str) -> None:
    """And it is said what is missing."""
    client: Any = Nobody()
    one = Improvement(bench.fleet, client, name, bench.said.append)
    if name == "unlabelled":
        bench.fleet.publish(noise_bundle(bench.work / name, name=name).path)
    with one.locked(), pytest.raises(InputError) as error:
        one.begin(lambda _: WISH, None)
    assert error.value.code == ("no-samples" if name == "unlabelled" else "no-such-bundle")


def test_the_shadow_comes_first_and_the_field_decides() -> None:
    """What was asked of the rollout counts, but not another bundle."""
    wish = Wish("r", rollout={"bake_s": 5, "waves": [{"percent": 100}], "bundle": "other"})
    state = State("noise", "1.1.0", "1.0.0", wish)
    shadow, active = shadow_spec(state), active_spec(state)
    assert (shadow.mode, shadow.bake_s) == ("shadow", 600)
    assert (active.bundle, active.bake_s, len(active.waves)) == ("noise", 5, 1)
    assert active.gates.max_field_regression == 0.05
