"""Flash that loses power at any operation of an update leaves a device that serves and updates."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contracts import codec, program
from contracts.bundle import sha256_of
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.micro_release import MicroFile, MicroRelease
from fleet.boards import folder as boards
from fleet.joining import micro as release
from fleet.repository.repository import Repository
from tests.micro import bundles, device

BOOT_S = 300  # a safety limit: most boots take a second


def _boot(
    folder: Path, *words: str, script: str = "powercut.py"
) -> subprocess.CompletedProcess[str]:
    """One boot of the device, to its end or to the cut of its power."""
    return subprocess.run(
        device.command(script, str(folder), *words, heap="8M"),
        capture_output=True,
        text=True,
        timeout=BOOT_S,
        env=device.environment(),
        check=False,
    )


def _whole(folder: Path, *words: str, script: str = "powercut.py") -> int:
    """The operations of a boot whose power is not cut, and that ends as it must."""
    done = _boot(folder, *words, script=script)
    assert done.returncode == 0, f"{words}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
    return int(json.loads(done.stdout.splitlines()[-1])["operations"])


def test_power_may_be_cut_at_every_write_and_erase_of_an_update(tmp_path):
    """After each cut the device boots, serves one of the two bundles, and completes the update."""
    repository = Repository.create(tmp_path / "repo", tmp_path / "keys")
    documents = []
    for number in (1, 2):
        bundle = bundles.write(tmp_path / str(number), "small", f"1.{number}.0", seed=number)
        ref = repository.publish(bundle)
        slot = DesiredBundle(ref, trial=TrialRules(seconds=0))
        documents.append(
            json.loads(codec.encode(Desired(revision=number, slots={"classify": slot})))
        )
    (tmp_path / "root.json").write_bytes(repository.root)
    (tmp_path / "desired.json").write_text(json.dumps(documents))
    installed = tmp_path / "installed"
    _whole(tmp_path, "install", str(installed))

    def copy(name: str) -> str:
        return str(shutil.copy(installed, tmp_path / f"image-{name}"))

    def cut_at(operation: int) -> None:
        image = copy(str(operation))
        cut = _boot(tmp_path, "update", image, str(operation))
        assert cut.returncode == -signal.SIGKILL, f"not cut at {operation}: {cut.stderr[-2000:]}"
        _whole(tmp_path, "update", image)
        Path(image).unlink()

    operations = _whole(tmp_path, "update", copy("whole"))
    assert operations > 50
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(cut_at, range(1, operations + 1)))


@pytest.mark.parametrize("parts", [3, pytest.param(None, marks=pytest.mark.soak)])
def test_power_may_be_cut_at_every_write_and_erase_of_an_update_of_the_program(
    tmp_path: Path, parts: int | None
) -> None:
    """After each cut the starter starts a whole release, and the board comes to the new one.

    At three operations, and in ``make soak`` at each: every boot checks signatures anew.
    """
    script = "programcut.py"
    repository = Repository.create(tmp_path / "repo", tmp_path / "keys")
    version = "0.2.0"
    content = {f"{name}.py": f"{name} = {version!r}\n".encode() * 40 for name in ("__init__", "a")}
    listed = [MicroFile(name, sha256_of(data), len(data)) for name, data in content.items()]
    made = MicroRelease(1, "shoal-agent", version, "x64", "mpy63", listed)
    release.sign(repository, made, content)
    wish = DesiredBundle(program.ref(version), trial=TrialRules(seconds=0))
    (tmp_path / "desired.json").write_bytes(codec.encode(Desired(1, {"agent": wish})))
    (tmp_path / "main.py").write_text(boards.starter(1024, "/f"))
    (tmp_path / "root.json").write_bytes(repository.root)
    installed = tmp_path / "installed"
    _whole(tmp_path, "install", str(installed), script=script)

    def copy(name: str) -> str:
        return str(shutil.copy(installed, tmp_path / f"image-{name}"))

    def cut_at(operation: int) -> None:
        image = copy(str(operation))
        cut = _boot(tmp_path, "update", image, str(operation), script=script)
        assert cut.returncode == -signal.SIGKILL, f"not cut at {operation}: {cut.stderr[-2000:]}"
        _whole(tmp_path, "update", image, script=script)
        Path(image).unlink()

    operations = _whole(tmp_path, "update", copy("whole"), script=script)
    assert operations > 20
    step = 1 if parts is None else operations // parts
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(cut_at, range(step, operations + 1, step)))
