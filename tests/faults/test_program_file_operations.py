"""An update of the agent's own program fails once at every file operation; the device survives.

As :mod:`tests.faults.test_every_file_operation` for bundles: the engine's operations and the
starter's, over all the starts that it takes. After each fault the device must run a release that
is whole, and finish: with the new one, or with the old one if the new one does not start.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from contracts import program
from contracts.desired import TrialRules
from tests.faults.test_every_file_operation import QuickDisk
from tests.support.engine import copy_state
from tests.support.faulty_disk import CRASHES, ERRORS, Fault, FaultyDisk, PowerCut
from tests.support.program import BASE, ProgramDevice, Releases, ref, want

OLD, NEW = "1.1.0", "1.2.0"
TRIAL = TrialRules(seconds=1.0, max_restarts=2)


@pytest.fixture(scope="module")
def releases() -> Releases:
    """Both versions."""
    return Releases(OLD, NEW)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> Path:
    """A device's state folder that runs the old release, on top of the base."""
    root = tmp_path_factory.mktemp("installed")
    device = ProgramDevice(root, releases)
    device.install()
    device.run(QuickDisk(), want(OLD, 1))
    return root


def device_on(installed: Path, root: Path, releases: Releases, *, bad: bool) -> ProgramDevice:
    """A device with a copy of that folder; `bad`: the new release does not start."""
    copy_state(installed, root)
    return ProgramDevice(root, releases, crashing=(NEW,) if bad else ())


def check_runs(device: ProgramDevice, *, bad: bool, version: str, exact: bool) -> None:
    """After the fault, with a disk that works: the end, and nothing left over."""
    rig = device.run(QuickDisk(), want(NEW, 2, TRIAL))
    assert device.started[-1] == version, device.started
    assert rig.engine.slots()[program.SLOT].active == ref(version)
    assert rig.engine.journal.reached == 2
    assert not (device.home / "trial.json").exists()
    if exact and bad:  # the starts before the fault and those after it
        assert device.started.count(NEW) <= TRIAL.max_restarts + 1


@pytest.mark.parametrize(
    ("fault", "bad"),
    [*((fault, False) for fault in (*CRASHES, *ERRORS)), ("killed", True), ("power-cut", True)],
)
def test_a_release_of_the_agent_survives_a_fault_at_every_operation(
    fault: Fault, bad: bool, installed: Path, releases: Releases, tmp_path: Path
) -> None:
    """The old or the new program runs, whole, and the update ends as it has to."""
    root = tmp_path / "state"
    device = device_on(installed, root, releases, bad=bad)
    disk = FaultyDisk(root)
    device.run(disk, want(NEW, 2, TRIAL))
    operations = list(disk.operations)
    for at, name in enumerate(operations):
        device = device_on(installed, root, releases, bad=bad)
        disk = FaultyDisk(root, at, fault)
        try:
            with contextlib.suppress(PowerCut):
                device.run(disk, want(NEW, 2, TRIAL))
            assert disk.fired
            assert set(device.started) <= {BASE, OLD, NEW}
            # A fault of the disk may end a good release's trial: the old one runs, and says so.
            ended = device.rig.engine.journal.update if device.rig else None
            back = ended is not None and ended.state in ("rolled-back", "refused")
            wanted = OLD if bad or (fault in ERRORS and back) else NEW
            check_runs(device, bad=bad, version=wanted, exact=fault in CRASHES)
        except BaseException as error:
            raise AssertionError(f"{fault} at operation {at} ({name})") from error
    assert len(operations) > 60
    shutil.rmtree(root)
