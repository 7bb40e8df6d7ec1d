"""New keys and thresholds, and a fleet that never notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.trust.client import Trust
from contracts.errors import InputError, RefusedError
from fleet.repository import Repository, keys, rotation
from fleet.repository import repository as repository_module
from fleet.repository.keys import KeyFolder
from tests.support.bundles import noise_bundle


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one bundle and two of three root keys needed."""
    repository = Repository.create(
        tmp_path / "repo", tmp_path / "keys", root_keys=3, root_threshold=2
    )
    repository.publish(noise_bundle(tmp_path / "bundle"))
    return repository


def device(repository: Repository, folder: Path, root: bytes | None = None) -> Trust:
    """A device, shipped with the newest root or an older one."""
    return Trust(
        folder,
        root or repository.root,
        lambda path, cap: repository.read(path, 0, cap + 1).data,
    )


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_devices_old_and_new_follow_a_rotation(
    repository: Repository, tmp_path: Path, role: str
) -> None:
    """Three times over, with one device along at each step and one that slept through all."""
    (ref,) = repository.bundles()
    first = repository.root
    awake = device(repository, tmp_path / "awake")
    awake.refresh()
    for version in (2, 3, 4):
        assert rotation.rotate(repository, role, add=3 if role == "root" else 1) == version
        repository.resign(force=True)
        awake.refresh()
    asleep = device(repository, tmp_path / "asleep", first)
    assert asleep.manifest(ref) == awake.manifest(ref)
    again = repository.publish(noise_bundle(tmp_path / "b2", version="1.1.0", seed=1))
    assert asleep.manifest(again)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot"])
@pytest.mark.parametrize("crash_at", range(5))
def test_a_crash_at_any_write_of_a_rotation_is_not_noticed(
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    crash_at: int,
) -> None:
    """Devices go on before and after, and the rotation can be done again."""
    known = device(repository, tmp_path / "known")
    known.refresh()
    shipped = repository.root
    real, writes = repository_module.durable.write, 0

    def crash(path: Path, data: bytes, **options: object) -> None:
        nonlocal writes
        if path.parent == repository.folder / "metadata":
            if writes == crash_at:
                raise KeyboardInterrupt
            writes += 1
        real(path, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(repository_module.durable, "write", crash)
        try:
            rotation.rotate(repository, role, add=3 if role == "root" else 1)
        except KeyboardInterrupt:
            pass
        else:
            assert writes == {"root": 1, "targets": 4, "snapshot": 3}[role]
    repository = Repository.open(repository.folder, tmp_path / "keys")
    known.refresh()
    device(repository, tmp_path / "new", shipped).refresh()
    rotation.rotate(repository, role, add=3 if role == "root" else 1)
    repository.resign(force=True)
    known.refresh()
    device(repository, tmp_path / "newer", shipped).refresh()


def test_a_stolen_targets_key_is_worth_nothing_after_rotation(
    repository: Repository, tmp_path: Path
) -> None:
    """The thief signs with the old key; a device that has the new root refuses."""
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    for path in (tmp_path / "keys").glob("*.pem"):
        if not path.name.startswith("root"):
            (stolen / path.name).write_bytes(path.read_bytes())
            (stolen / path.name).chmod(0o600)
    victim = device(repository, tmp_path / "victim")
    victim.refresh()
    thief = Repository.open(repository.folder, stolen)
    rotation.rotate(repository, "targets")
    rotation.rotate(repository, "snapshot")
    rotation.rotate(repository, "timestamp")
    victim.refresh()
    with pytest.raises(InputError) as caught:
        thief.publish(noise_bundle(tmp_path / "evil", version="6.6.6", seed=6))
    assert caught.value.code == "key-missing"
    # The thief does not care what our program refuses: sign with the old root's idea of keys.
    old = thief.metadata._parse((thief.folder / "metadata/1.root.json").read_bytes(),
                                type(thief.metadata.root().signed), "root").signed  # fmt: skip
    thief.metadata.write_snapshot(root=old)
    with pytest.raises(RefusedError) as refused:
        victim.refresh()
    assert refused.value.code == "wrong-signature"


def test_the_root_threshold_must_be_met(repository: Repository, tmp_path: Path) -> None:
    """One of three root keys cannot change anything."""
    for key in sorted((tmp_path / "keys").glob("root-*.pem"))[1:]:
        key.unlink()
    with pytest.raises(InputError) as caught:
        rotation.rotate(repository, "targets")
    assert caught.value.code == "key-missing"
    assert repository.metadata.root_version() == 1


@pytest.mark.parametrize(
    ("role", "options", "code"),
    [
        ("nobody", {}, "unknown-role"),
        ("root", {"remove": ["zz"]}, "no-such-key"),
        ("root", {"remove": [""]}, "no-such-key"),
        ("root", {"add": 0, "remove": None}, "bad-threshold"),
        ("root", {"threshold": 9}, "bad-threshold"),
        ("root", {"threshold": 0}, "bad-threshold"),
        ("targets", {"add": 17}, "bad-threshold"),
    ],
)
def test_a_rotation_that_makes_no_sense_is_refused(
    repository: Repository, role: str, options: dict[str, object], code: str
) -> None:
    """And nothing was written, no key was made."""
    before = sorted((repository.metadata.keys.folder).iterdir())
    with pytest.raises(InputError) as caught:
        rotation.rotate(repository, role, **options)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert repository.metadata.root_version() == 1
    assert sorted((repository.metadata.keys.folder).iterdir()) == before


def test_people_who_keep_their_keys_apart_sign_a_draft_one_by_one(
    repository: Repository, tmp_path: Path
) -> None:
    """A holder is replaced: the new one hands over a public key; two old holders sign."""
    victim = device(repository, tmp_path / "victim")
    victim.refresh()
    holders = []
    for path in sorted((tmp_path / "keys").glob("root-*.pem")):
        folder = tmp_path / path.stem
        folder.mkdir()
        path.rename(folder / path.name)
        holders.append(KeyFolder(folder))
    fresh = KeyFolder(tmp_path / "fresh")
    public = fresh.path_of("root", fresh.generate("root")).with_suffix(".pub")
    leaving = holders[2].folder.name.removeprefix("root-")
    draft = tmp_path / "draft.json"
    rotation.propose(
        repository, draft, "root", add=0, public=[keys.load_public(public)], remove=[leaving]
    )
    for signer in (holders[0], holders[1]):
        with pytest.raises(InputError) as caught:
            rotation.apply(repository, draft)
        assert caught.value.code == "key-missing"
        rotation.sign_draft(repository, draft, signer)
    assert rotation.apply(repository, draft) == 2
    victim.refresh()
    assert len({key.keyid for key in rotation.describe(repository)[0].keys}) == 3
    # The draft is spent, and the one who left cannot sign the next.
    with pytest.raises(InputError) as caught:
        rotation.apply(repository, draft)
    assert caught.value.code == "bad-draft"
    second = tmp_path / "second.json"
    rotation.propose(repository, second, "targets")
    with pytest.raises(InputError) as caught:
        rotation.sign_draft(repository, second, holders[2])
    assert caught.value.code == "key-missing"


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_a_draft_that_is_noise_is_refused(
    repository: Repository, tmp_path: Path, data: bytes
) -> None:
    """Empty, JSON, not text, nested without end; and one that is not there."""
    (tmp_path / "draft.json").write_bytes(data)
    for name, code in (("draft.json", "bad-draft"), ("none.json", "no-such-file")):
        with pytest.raises(InputError) as caught:
            rotation.apply(repository, tmp_path / name)
        assert caught.value.code == code


def test_a_draft_that_was_changed_after_signing_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    """A signature is of the draft as it was."""
    draft = tmp_path / "draft.json"
    rotation.propose(repository, draft, "targets")
    draft.write_text(draft.read_text().replace('"threshold": 2', '"threshold": 1'))
    with pytest.raises(InputError) as caught:
        rotation.apply(repository, draft)
    assert caught.value.code == "key-missing"


def test_keys_are_described_with_what_is_at_hand(repository: Repository, tmp_path: Path) -> None:
    """Role by role: threshold, expiry, and which private keys are there."""
    for key in (tmp_path / "keys").glob("targets-*.pem"):
        key.unlink()
    described = {role.role: role for role in rotation.describe(repository)}
    assert (described["root"].threshold, len(described["root"].keys)) == (2, 3)
    assert [key.at_hand for key in described["targets"].keys] == [False]
    assert [key.at_hand for key in described["snapshot"].keys] == [True]
