"""Publishing, re-signing and reading a repository on disk."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent.trust.client import Trust
from contracts import codec
from contracts.bundle import file_entries
from contracts.errors import InputError, RefusedError
from contracts.manifest import TokenizerFrontEnd
from fleet.repository import Repository
from fleet.repository import repository as repository_module
from tests.support.bundles import noise_bundle, rewrite

DAY = 86400.0


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = datetime(2026, 3, 1, tzinfo=timezone.utc).timestamp()) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """March 2026, until a test moves it."""
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> Repository:
    """An empty repository with one key a role."""
    return Repository.create(tmp_path / "repo", tmp_path / "keys", clock=clock)


def device(repository: Repository, folder: Path, clock: Clock) -> Trust:
    """A device that reads the repository as blocks over MQTT would."""
    return Trust(
        folder,
        repository.root,
        lambda path, cap: repository.read(path, 0, cap + 1).data,
        clock=clock,
    )


def test_a_device_reads_the_manifest_that_was_published(
    repository: Repository, tmp_path: Path, clock: Clock
) -> None:
    """Publish, then fetch through the production client: same bytes, first release."""
    bundle = noise_bundle(tmp_path / "b")
    ref = repository.publish(bundle)
    trust = device(repository, tmp_path / "trust", clock)
    assert trust.manifest(ref) == bundle.manifest_bytes
    assert trust.release(ref) == repository.release(ref) == 1
    for entry in bundle.manifest.files:
        assert repository.read(f"blobs/{entry.sha256}", 0, 10**6).data == bundle.read(entry.path)


def test_publishing_the_same_bytes_again_changes_nothing(
    repository: Repository, tmp_path: Path
) -> None:
    """No new metadata, no new release."""
    bundle = noise_bundle(tmp_path / "b")
    ref = repository.publish(bundle)
    before = (repository.folder / "metadata/timestamp.json").read_bytes()
    assert repository.publish(bundle) == ref
    assert (repository.folder / "metadata/timestamp.json").read_bytes() == before


def test_a_published_version_cannot_be_replaced(repository: Repository, tmp_path: Path) -> None:
    """Other bytes under a known version are refused, and the first stay published."""
    bundle = noise_bundle(tmp_path / "b")
    ref = repository.publish(bundle)
    changed = rewrite(bundle, metrics={"accuracy": 1.0})
    with pytest.raises(RefusedError) as caught:
        repository.publish(changed)
    assert caught.value.code == "version-taken"
    assert repository.find("noise", "1.0.0") == ref


def test_a_damaged_blob_is_repaired_by_publishing_again(
    repository: Repository, tmp_path: Path
) -> None:
    """A blob of a wrong size is written anew."""
    bundle = noise_bundle(tmp_path / "b")
    repository.publish(bundle)
    entry = bundle.manifest.files[0]
    blob = repository.folder / "blobs" / entry.sha256
    blob.write_bytes(b"cut")
    repository.publish(bundle)
    assert blob.read_bytes() == bundle.read(entry.path)


def test_a_bundle_that_is_not_whole_is_not_published(
    repository: Repository, tmp_path: Path
) -> None:
    """A file that is not what the manifest says stops it before any metadata is written."""
    bundle = noise_bundle(tmp_path / "b")
    (bundle.path / "model.tflite").write_bytes(b"other")
    with pytest.raises(InputError) as caught:
        repository.publish(bundle)
    assert caught.value.code == "bundle-corrupt"
    assert repository.bundles() == {}


def test_a_tokenizer_that_makes_gigabytes_of_a_text_is_not_published(
    repository: Repository, tmp_path: Path
) -> None:
    """Neither is it refused by devices alone, one after the other."""
    bundle = noise_bundle(tmp_path / "b")
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100_000}
    (bundle.path / "t.json").write_bytes(codec.encode({"normalizer": step}))
    files = file_entries([bundle.path / "t.json"]) + list(bundle.manifest.files)
    hostile = rewrite(bundle, files=files, front_end=TokenizerFrontEnd("t.json", lengths=[32]))
    with pytest.raises(RefusedError) as caught:
        repository.publish(hostile)
    assert caught.value.code == "bad-tokenizer"
    assert repository.bundles() == {}


def test_release_counters_grow_and_are_never_given_twice(
    repository: Repository, tmp_path: Path
) -> None:
    """Also after the newest bundle was withdrawn."""
    refs = [
        repository.publish(noise_bundle(tmp_path / v, version=v, seed=i))
        for i, v in enumerate(["1.0.0", "1.1.0"])
    ]
    repository.withdraw(refs[1])
    third = repository.publish(noise_bundle(tmp_path / "c", version="1.2.0", seed=3))
    assert repository.bundles() == {refs[0]: 1, third: 3}


def test_a_device_refuses_a_withdrawn_bundle(
    repository: Repository, tmp_path: Path, clock: Clock
) -> None:
    """It is no longer in the signed list, though its files are still served."""
    ref = repository.publish(noise_bundle(tmp_path / "b"))
    repository.withdraw(ref)
    with pytest.raises(RefusedError) as caught:
        device(repository, tmp_path / "trust", clock).manifest(ref)
    assert caught.value.code == "not-published"


def test_a_withdrawn_version_is_never_given_to_other_bytes(
    repository: Repository, tmp_path: Path, clock: Clock
) -> None:
    """Also after the repository was opened anew; the same bytes come back, as a new release."""
    bundle = noise_bundle(tmp_path / "b")
    ref = repository.publish(bundle)
    repository.withdraw(ref)
    repository = Repository.open(repository.folder, tmp_path / "keys", clock=clock)
    repository.publish(noise_bundle(tmp_path / "c", version="1.1.0", seed=1))
    with pytest.raises(RefusedError) as caught:
        repository.publish(noise_bundle(tmp_path / "d", seed=2))
    assert caught.value.code == "version-taken"
    assert "withdrawn" in str(caught.value)
    assert repository.publish(bundle) == ref
    assert repository.release(ref) == 3
    assert device(repository, tmp_path / "trust", clock).manifest(ref) == bundle.manifest_bytes
    with pytest.raises(RefusedError):
        repository.publish(rewrite(bundle, metrics={"accuracy": 1.0}))


@pytest.mark.parametrize("crash_at", range(6))
def test_a_crash_at_any_write_of_publishing_leaves_a_repository_that_works(
    repository: Repository,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    crash_at: int,
) -> None:
    """Cut at each write in turn: devices see old or new, and publishing again ends it."""
    first = repository.publish(noise_bundle(tmp_path / "a"))
    bundle = noise_bundle(tmp_path / "b", version="1.1.0", seed=1)
    writes = 0
    real = repository_module.durable.write

    def crash(path: Path, data: bytes, **options: object) -> None:
        nonlocal writes
        if writes == crash_at:
            path.with_name(f".{path.name}.0.tmp").write_bytes(data[: len(data) // 2])
            raise KeyboardInterrupt
        writes += 1
        real(path, data, **options)

    monkeypatch.setattr(repository_module.durable, "write", crash)
    try:
        repository.publish(bundle)
    except KeyboardInterrupt:
        pass
    else:
        # The model, the manifest, targets, snapshot, timestamp (the golden vectors are shared).
        assert writes == crash_at == 5
    monkeypatch.undo()

    again = Repository.open(repository.folder, tmp_path / "keys", clock=clock)
    trust = device(again, tmp_path / "trust", clock)
    assert trust.manifest(first)
    ref = again.publish(bundle)
    assert trust.manifest(ref) == bundle.manifest_bytes
    again.resign(force=True)
    trust.refresh()


def test_online_signatures_are_renewed_at_half_their_time_without_offline_keys(
    repository: Repository, tmp_path: Path, clock: Clock
) -> None:
    """With root and targets keys locked away, and publishing says which is missing."""
    ref = repository.publish(noise_bundle(tmp_path / "b"))
    for role in ("root", "targets"):
        for key in (tmp_path / "keys").glob(f"{role}-*.pem"):
            key.unlink()
    repository = Repository.open(repository.folder, tmp_path / "keys", clock=clock)
    assert repository.resign() == []
    clock.now += 4 * DAY
    assert repository.resign() == ["timestamp"]
    clock.now += 12 * DAY
    assert repository.resign() == ["snapshot", "timestamp"]
    assert device(repository, tmp_path / "trust", clock).manifest(ref)
    with pytest.raises(InputError) as caught:
        repository.publish(noise_bundle(tmp_path / "c", version="1.1.0", seed=1))
    assert caught.value.code == "key-missing"
    assert "targets needs 1 of 1" in str(caught.value)


def test_private_keys_are_readable_by_their_owner_alone(
    repository: Repository, tmp_path: Path
) -> None:
    """Mode 0600 in a folder 0700; a key that others can read is refused."""
    keys = list((tmp_path / "keys").glob("*.pem"))
    assert len(keys) == 4
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    for key in keys:
        key.chmod(0o644)
    with pytest.raises(InputError) as caught:
        repository.resign(force=True)
    assert caught.value.code == "key-exposed"


def test_a_passphrase_protects_the_keys(tmp_path: Path, clock: Clock) -> None:
    """Without it, or with another, nothing is signed."""
    Repository.create(tmp_path / "r", tmp_path / "k", passphrase=b"correct", clock=clock)
    for passphrase in (None, b"wrong"):
        locked = Repository.open(tmp_path / "r", tmp_path / "k", passphrase=passphrase, clock=clock)
        with pytest.raises(InputError) as caught:
            locked.resign(force=True)
        assert caught.value.code == "key-locked"
    opened = Repository.open(tmp_path / "r", tmp_path / "k", passphrase=b"correct", clock=clock)
    assert opened.resign(force=True) == ["snapshot", "timestamp"]


@pytest.mark.parametrize(
    "path",
    [
        "../keys/root.pem",
        "blobs/../../keys/root.pem",
        "/etc/passwd",
        "metadata/../.lock",
        ".lock",
        "metadata",
        "blobs/" + "A" * 64,
        "metadata/timestamp.json\n",
        "metadata/timestamp.json\0",
        "metadata/٣.root.json",
        "",
    ],
)
def test_only_paths_of_the_repository_can_be_read(repository: Repository, path: str) -> None:
    """Everything else does not exist."""
    with pytest.raises(InputError) as caught:
        repository.read(path, 0, 10)
    assert caught.value.code == "no-such-path"


def test_a_link_in_the_repository_is_not_followed(repository: Repository, tmp_path: Path) -> None:
    """Whoever can plant a link there cannot read other files through it."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    (repository.folder / "blobs" / ("a" * 64)).symlink_to(secret)
    with pytest.raises(InputError):
        repository.read("blobs/" + "a" * 64, 0, 1)


def test_ranges_are_read_as_asked(repository: Repository) -> None:
    """A range is its bytes; the end is short; beyond the end is an error."""
    whole = (repository.folder / "metadata/1.root.json").read_bytes()
    block = repository.read("metadata/1.root.json", 10, 20)
    assert (block.offset, block.total, block.data) == (10, len(whole), whole[10:30])
    assert repository.read("metadata/1.root.json", len(whole), 5).data == b""
    for offset, length in [(-1, 5), (0, 0), (len(whole) + 1, 5)]:
        with pytest.raises(InputError) as caught:
            repository.read("metadata/1.root.json", offset, length)
        assert caught.value.code == "bad-range"


def test_opening_what_is_not_a_repository_says_so(tmp_path: Path) -> None:
    """An empty folder, and metadata that is noise."""
    with pytest.raises(InputError) as caught:
        Repository.open(tmp_path)
    assert caught.value.code == "not-a-repository"
    Repository.create(tmp_path / "r", tmp_path / "k")
    (tmp_path / "r/metadata/timestamp.json").write_bytes(b"{")
    with pytest.raises(InputError) as caught:
        Repository.open(tmp_path / "r")
    assert caught.value.code == "repository-corrupt"


def test_a_repository_is_not_made_over_another(repository: Repository, tmp_path: Path) -> None:
    """Its keys and its root stay."""
    before = repository.root
    with pytest.raises(InputError) as caught:
        Repository.create(repository.folder, tmp_path / "keys2")
    assert caught.value.code == "already-a-repository"
    assert repository.root == before
