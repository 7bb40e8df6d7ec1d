"""Signatures checked in a process of its own: the same answers, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agent.trust.child import TrustApart
from agent.trust.client import Trust
from contracts import limits
from contracts.errors import RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef
from tests.support.tuf_simulator import NOW, Simulator


def apart(
    repository: Simulator, folder: Path, fetch: Callable[[str, int], bytes] | None = None
) -> TrustApart:
    """A device's trust on the disk `folder`."""
    return TrustApart(folder, repository.first_root, fetch or repository.fetch, NOW.timestamp)


def test_the_manifest_and_the_stored_metadata_are_those_of_one_process(
    repository: Simulator, ref: BundleRef, tmp_path: Path
) -> None:
    """What the child answers and stores is what the class does in this process."""
    expected = Trust(
        tmp_path / "here", repository.first_root, repository.fetch, clock=NOW.timestamp
    ).newest(ref)
    assert apart(repository, tmp_path / "apart").newest(ref) == expected

    def stored(folder: Path) -> dict[str, bytes]:
        return {
            str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()
        }

    assert stored(tmp_path / "apart") == stored(tmp_path / "here") != {}


def test_a_rollback_is_refused_by_a_later_child(
    repository: Simulator, ref: BundleRef, tmp_path: Path
) -> None:
    """The memory of what was seen is on the disk, not in a process."""
    device = apart(repository, tmp_path)
    device.newest(ref)
    repository.targets.version += 1
    repository.publish()
    device.newest(ref)
    repository.timestamp.version = 1
    repository.publish()
    with pytest.raises(RefusedError) as caught:
        device.newest(ref)
    assert caught.value.code == "rollback"


def test_what_is_not_published_is_refused(repository: Simulator, tmp_path: Path) -> None:
    """A refusal keeps its class and its code."""
    unknown = BundleRef(name="other", version="1.0.0", manifest_sha256="0" * 64)
    with pytest.raises(RefusedError) as caught:
        apart(repository, tmp_path).newest(unknown)
    assert caught.value.code == "not-published"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnavailableError("repository-unreachable", "cut"), UnavailableError),
        (ShoalError("busy", "the controller is busy"), ShoalError),
        (RefusedError("endless-data", "too much"), RefusedError),
    ],
)
def test_errors_of_the_way_pass_through_the_child(
    repository: Simulator,
    ref: BundleRef,
    tmp_path: Path,
    error: ShoalError,
    kind: type[ShoalError],
) -> None:
    """What may be retried stays so, what may not be stays so."""

    def broken(path: str, cap: int) -> bytes:
        raise error

    with pytest.raises(kind) as caught:
        apart(repository, tmp_path, broken).newest(ref)
    assert type(caught.value) is kind and caught.value.code == error.code


def test_a_file_as_large_as_the_cap_passes(
    repository: Simulator, ref: BundleRef, tmp_path: Path
) -> None:
    """The largest file reaches the child, which finds that it is no metadata."""

    def largest(path: str, cap: int) -> bytes:
        assert cap <= limits.MAX_METADATA_BYTES
        return b"\xff" * limits.MAX_METADATA_BYTES

    with pytest.raises(RefusedError) as caught:
        apart(repository, tmp_path, largest).newest(ref)
    assert caught.value.code in ("bad-metadata", "endless-data")


def test_a_manifest_as_large_as_the_cap_passes(repository: Simulator, tmp_path: Path) -> None:
    """To the child and back: a manifest may be larger than any metadata."""
    data = b" " * limits.MAX_MANIFEST_BYTES
    ref = repository.add_bundle(data=data)
    repository.publish()
    assert apart(repository, tmp_path).newest(ref) == data


def children() -> list[psutil.Process]:
    """Running children of this process's helpers; some may end while they are looked at."""
    found = []
    python = psutil.Process().exe()
    for helper in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if helper.exe() != python:
                continue  # a database of other tests of this worker
            for child in helper.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        found.append(child)
    return found


def test_a_child_that_is_killed_is_tried_again_later(
    repository: Simulator, ref: BundleRef, tmp_path: Path
) -> None:
    """The death of the check is not a refusal of the bundle, and no child stays."""

    def kill(path: str, cap: int) -> bytes:
        for child in children():
            with contextlib.suppress(psutil.NoSuchProcess):  # one that rested and just ended
                child.send_signal(signal.SIGKILL)
        return repository.fetch(path, cap)

    with pytest.raises(UnavailableError) as caught:
        apart(repository, tmp_path, kill).newest(ref)
    assert caught.value.code == "trust-failed"
    assert not children()
    assert apart(repository, tmp_path).newest(ref)


def test_a_full_disk_is_tried_again_later(
    repository: Simulator, ref: BundleRef, tmp_path: Path
) -> None:
    """A folder that cannot be written is an error that may pass."""
    (tmp_path / "trust").write_bytes(b"a file where the folder should be")
    with pytest.raises(ShoalError) as caught:
        apart(repository, tmp_path / "trust").newest(ref)
    assert caught.value.code == "disk-error"


def test_an_agent_that_updated_holds_no_tuf(
    repository: Simulator, ref: BundleRef, tmp_path: Path
) -> None:
    """The libraries of the check stay out of the process that serves."""
    program = (
        "import sys; from pathlib import Path\n"
        "from agent.trust.child import TrustApart\n"
        "from contracts.errors import UnavailableError\n"
        "from contracts.messages import BundleRef\n"
        "def fetch(path, cap): raise UnavailableError('cut', path)\n"
        "apart = TrustApart(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), fetch)\n"
        "try: apart.newest(BundleRef(name='a', version='1.0.0', manifest_sha256='0' * 64))\n"
        "except UnavailableError as error: print(error.code)\n"
        "print(sorted({'tuf', 'cryptography', 'securesystemslib'} & set(sys.modules)))\n"
    )
    root = tmp_path / "root.json"
    root.write_bytes(repository.first_root)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "trust"), str(root)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout.split("\n")[:2] == ["cut", "[]"]


def test_a_child_loads_no_way_to_fetch() -> None:
    """python-tuf's own takes as long to load as all the rest."""
    code = (
        "import sys\n"
        "from agent.trust import child\n"
        "child.preload()\n"
        "assert 'tuf.ngclient._internal.trusted_metadata_set' in sys.modules\n"
        "sys.exit('urllib3' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
