"""A board replaces its own program, and goes back from one that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts import program
from contracts.bundle import Bundle, sha256_of
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.messages import UpdateEvent
from contracts.micro_release import MicroFile, MicroRelease
from contracts.requests import ClassifyRequest
from fleet.boards import folder as boards
from fleet.joining import micro as release
from fleet.repository.repository import Repository
from tests.micro.conftest import DATA, Devices
from tests.micro.controller import Controller

MODEL = Bundle.open(DATA / "tiny-classifier-1.0.0").ref
TRIAL = TrialRules(seconds=0.5, max_restarts=3)


@contextmanager
def powered(devices: Devices, folder: Path) -> Iterator[None]:
    """A board that is started again whenever it restarts."""
    over = threading.Event()
    running = [devices.start(folder, script="starter.py")]

    def again() -> None:
        while not over.is_set():
            running[0].wait()
            if not over.is_set():
                running[0] = devices.start(folder, script="starter.py")

    power = threading.Thread(target=again)
    power.start()
    try:
        yield
    finally:
        over.set()
        running[0].kill()
        power.join(60)


def broken(repository: Repository, like: release.Published, version: str) -> None:
    """Signs a release of one file, which fails at import."""
    code = b"raise ValueError('broken')\n"
    listed = [MicroFile("__init__.py", sha256_of(code), len(code))]
    made = MicroRelease(1, "shoal-agent", version, like.platform, like.python, listed)
    release.sign(repository, made, {"__init__.py": code})


def test_a_board_replaces_its_program_goes_back_from_a_bad_one_and_downgrades(
    devices: Devices, controller: Controller
) -> None:
    """The version in `reported` changes, the model answers, no release loses the board."""
    new = release.publish(controller.repository, "x86_64", version="0.2.0")
    release.publish(controller.repository, "x86_64", version="0.0.9")
    broken(controller.repository, new, "0.3.0")
    folder = devices.enrol("board")
    (folder / "main.py").write_text(boards.starter(24 * 1024, str(folder)))

    def wish(revision: int, version: str) -> UpdateEvent:
        wishes = {
            "classify": DesiredBundle(MODEL, trial=TRIAL),
            "agent": DesiredBundle(program.ref(version), trial=TRIAL),
        }
        controller.desire_document("board", Desired(revision, wishes, rollout="test"))
        found = controller.wait(
            f"the end of {version}",
            lambda _, kind, m: kind == "reported" and m.desired_revision == revision
            and m.last_update is not None and m.last_update.slot == "agent",
        )  # fmt: skip
        event: UpdateEvent = found.last_update
        return event

    def runs(revision: int, version: str) -> None:
        found = controller.wait(
            f"{version} in reported",
            lambda _, kind, m: kind == "reported" and m.desired_revision == revision
            and m.agent_version == version,
        )  # fmt: skip
        assert found.platform[program.TAG] == f"{new.platform}-{new.python}"
        assert found.slots["agent"].active == program.ref(version)
        answer = controller.ask("board", "classify", ClassifyRequest(text="turn on the light"))[-1]
        assert answer.classified is not None

    with powered(devices, folder):
        first = wish(2, "0.2.0")
        assert first.state == "committed", (first, (folder / "log.txt").read_text()[-3000:])
        runs(2, "0.2.0")
        back = wish(3, "0.3.0")
        assert (back.state, back.reason and back.reason.code) == ("rolled-back", "trial-restarts")
        runs(3, "0.2.0")
        assert wish(5, "0.0.9").state == "committed"
        runs(5, "0.0.9")


def test_a_board_without_a_starter_says_why_it_keeps_its_program(
    devices: Devices, controller: Controller
) -> None:
    """In `reported`, before anybody asks; and it refuses when somebody does."""
    devices.start(devices.enrol("old"))
    said = controller.wait("a report", lambda _, kind, m: kind == "reported")
    assert "starter" in said.platform[program.FIXED]
    wishes = {"agent": DesiredBundle(program.ref("0.2.0"), trial=TRIAL)}
    controller.desire_document("old", Desired(1, wishes))
    refused = controller.wait_update("refused", 1)
    assert refused.reason is not None
    assert refused.reason.code == "program-fixed"
