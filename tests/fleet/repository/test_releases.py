"""Releases of the agent in the signed repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.trust.client import Trust
from contracts.errors import InputError, RefusedError
from contracts.release import ReleaseArchive
from fleet.repository import Repository, paths, releases
from tests.support.wheels import make_release


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty one."""
    return Repository.create(tmp_path / "repository", tmp_path / "keys")


def _publish(repository: Repository, folder: Path, version: str, **how: str) -> releases.Published:
    return releases.publish(
        repository, ReleaseArchive.open(make_release(folder / version, version, **how))
    )


def test_a_device_that_trusts_the_fleet_gets_the_signed_archive(
    repository: Repository, tmp_path: Path
) -> None:
    """By the name of its target, through the device's own client of the signed metadata."""
    found = _publish(repository, tmp_path, "0.9.0")

    def fetch(path: str, cap: int) -> bytes:
        return repository.read(path, 0, cap).data

    trust = Trust(tmp_path / "trust", repository.root, fetch)
    data = trust.download(found.target, 1 << 20)
    archive = tmp_path / "downloaded.zip"
    archive.write_bytes(data)
    ReleaseArchive.open(archive, platform="x86-64", python="cp311").verify()
    assert repository.read(paths.blob(found.sha256), 0, 1 << 20).data == data


def test_releases_are_listed_by_version_and_the_newest_is_found(
    repository: Repository, tmp_path: Path
) -> None:
    """0.10.0 is newer than 0.9.0; another platform's is not this one's."""
    for version in ("0.10.0", "0.9.0"):
        _publish(repository, tmp_path, version)
    _publish(repository, tmp_path / "arm", "0.11.0", platform="aarch64", python="cp313")
    listed = [one.target for one in releases.published(repository)]
    assert listed == [
        "agent/0.9.0/x86-64-cp311.zip",
        "agent/0.10.0/x86-64-cp311.zip",
        "agent/0.11.0/aarch64-cp313.zip",
    ]
    newest = releases.newest(repository, "x86-64", "cp311")
    assert newest is not None and newest.version == "0.10.0"
    assert releases.newest(repository, "armv7l", "cp311") is None
    assert repository.bundles() == {}


def test_a_version_does_not_get_other_wheels_by_accident(
    repository: Repository, tmp_path: Path
) -> None:
    """The same bytes change nothing; others are signed only when that is asked for."""
    first = _publish(repository, tmp_path, "0.9.0")
    version = repository.metadata.targets().signed.version
    assert _publish(repository, tmp_path, "0.9.0") == first
    assert repository.metadata.targets().signed.version == version
    other = ReleaseArchive.open(
        make_release(tmp_path / "other", "0.9.0", agent={"agent/__init__.py": "def main(): ..."})
    )
    with pytest.raises(RefusedError, match="--replace"):
        releases.publish(repository, other)
    assert releases.published(repository) == [first]
    second = releases.publish(repository, other, replace=True)
    assert releases.published(repository) == [second]
    assert second.sha256 != first.sha256


def test_what_was_withdrawn_is_not_signed_any_more(repository: Repository, tmp_path: Path) -> None:
    """And a name that is no release's is refused, whatever else it is."""
    found = _publish(repository, tmp_path, "0.9.0")
    releases.withdraw(repository, found.target)
    assert releases.published(repository) == []
    for name in (found.target, "bundles/a/1.0.0/manifest.json", "../../etc/passwd"):
        with pytest.raises(InputError, match="not signed here"):
            releases.withdraw(repository, name)


def test_a_damaged_archive_is_not_signed(repository: Repository, tmp_path: Path) -> None:
    """Each wheel is read before anything is written."""
    archive = make_release(tmp_path, "0.9.0")
    opened = ReleaseArchive.open(archive)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(InputError):
        releases.publish(repository, opened)
    assert releases.published(repository) == []
    assert not list((repository.folder / "blobs").iterdir())


@pytest.mark.parametrize(
    "path",
    [
        "targets/agent/0.9.0/x86-64-cp311.zip",
        f"targets/agent/../{'0' * 64}.x86-64-cp311.zip",
        f"targets/agent/0.9.0/{'0' * 64}.../x-cp311.zip",
    ],
)
def test_only_paths_of_the_form_are_read(repository: Repository, path: str) -> None:
    """Nothing outside of the repository has a name."""
    with pytest.raises(InputError, match="not a path of the repository"):
        repository.read(path, 0, 1)
