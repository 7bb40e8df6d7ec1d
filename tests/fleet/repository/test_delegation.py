"""Publishers with keys and machines of their own, from the delegation to the device."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets

from agent.trust.client import Trust
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError, ShoalError
from contracts.messages import BundleRef
from fleet.repository import Repository, delegation, difference, listing, paths, rotation
from fleet.repository.keys import KeyFolder
from tests.support.bundles import noise_bundle


class Publisher:
    """Signs on a machine of its own: it has its keys, its bundles, and nothing of the fleet."""

    def __init__(self, folder: Path, role: str = "kitchen", keys: int = 1) -> None:
        self.folder = folder
        self.role = role
        self.keys = KeyFolder(folder)
        self.public = [self.keys.generate(role) for _ in range(keys)]
        self.now = time.time()
        self.last: bytes | None = None

    def bundle(self, name: str, version: str = "1.0.0", seed: int = 0) -> Bundle:
        """A bundle that it built."""
        return noise_bundle(
            self.folder / f"{name}-{version}-{seed}", name=name, version=version, seed=seed
        )

    def sign(self, *bundles: Bundle, withdraw: tuple[str, str] | None = None) -> bytes:
        """The next version of what it signs."""
        current = delegation.read(self.last, "the last").signed if self.last else None
        signed = delegation.extend(
            self.role, current, bundles, [withdraw] if withdraw else [], now=self.now, days=30
        )
        return self.signed(signed)

    def signed(self, signed: Targets) -> bytes:
        """Whatever it wants to sign."""
        document = Metadata[Targets](signed)
        delegation.sign(document, self.keys, self.role)
        self.last = delegation.to_bytes(document)
        return self.last


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A fleet's repository with one bundle of its own."""
    repository = Repository.create(tmp_path / "repo", tmp_path / "keys")
    repository.publish(noise_bundle(tmp_path / "bundle"))
    return repository


@pytest.fixture
def kitchen(repository: Repository, tmp_path: Path) -> Publisher:
    """A publisher that may sign ``kitchen-*``; the targets key is put away after that."""
    publisher = Publisher(tmp_path / "kitchen")
    delegation.delegate(repository, "kitchen", ["kitchen-*"], publisher.public)
    (tmp_path / "safe").mkdir()
    for role in ("root", "targets"):
        for key in (tmp_path / "keys").glob(f"{role}-*"):
            key.rename(tmp_path / "safe" / key.name)
    return publisher


def device(repository: Repository, folder: Path) -> Trust:
    """A device that asks this repository."""
    return Trust(folder, repository.root, lambda path, cap: repository.read(path, 0, cap + 1).data)


def refused(repository: Repository, data: bytes, *bundles: Bundle) -> str:
    """Why something that was signed is not taken in; nothing changes then."""
    before = {path: path.read_bytes() for path in (repository.folder / "metadata").iterdir()}
    with pytest.raises(ShoalError) as caught:
        delegation.take_in(repository, data, bundles)
    after = {path: path.read_bytes() for path in (repository.folder / "metadata").iterdir()}
    assert after == before
    return caught.value.code


def test_what_a_publisher_signs_elsewhere_reaches_devices_by_the_online_keys_alone(
    repository: Repository, kitchen: Publisher, tmp_path: Path
) -> None:
    """Root and targets keys are in a safe; the publisher has no key of the fleet."""
    bundle = kitchen.bundle("kitchen-timer")
    assert delegation.take_in(repository, kitchen.sign(bundle), [bundle]) == "kitchen"
    assert bundle.ref in repository.bundles()
    assert repository.find("kitchen-timer", "1.0.0") == bundle.ref
    trust = device(repository, tmp_path / "device")
    assert trust.newest(bundle.ref) == bundle.manifest_bytes
    for entry in bundle.manifest.files:
        assert repository.read(paths.blob(entry.sha256), 0, 10**6).data == bundle.read(entry.path)
    (noise,) = [ref for ref in repository.bundles() if ref.name == "noise"]
    assert trust.newest(noise)
    again = kitchen.bundle("kitchen-timer", "1.1.0", seed=1)
    delegation.take_in(repository, kitchen.sign(again), [again])
    assert trust.newest(again.ref) == again.manifest_bytes
    repository.resign(force=True)
    assert trust.newest(bundle.ref)
    (told,) = delegation.every(repository)
    assert (told.patterns, told.version, told.bundles) == (["kitchen-*"], 2, 2)
    assert repository.expiries()["kitchen"].timestamp() > time.time()


def test_a_publisher_signs_no_name_outside_its_pattern(
    repository: Repository, kitchen: Publisher, tmp_path: Path
) -> None:
    """The controller refuses it, and so does a device that was shown it."""
    bundle = kitchen.bundle("garage-door")
    data = kitchen.sign(bundle)
    assert refused(repository, data, bundle) == "outside-pattern"
    repository.write_content(bundle, {})
    repository.metadata.write_signed("kitchen", 1, data)  # a controller that was taken over
    with pytest.raises(RefusedError) as caught:
        device(repository, tmp_path / "device").newest(bundle.ref)
    assert caught.value.code == "not-published"
    assert bundle.ref not in repository.bundles()


def test_a_publisher_delegates_no_further(repository: Repository, kitchen: Publisher) -> None:
    """Who may sign is for the fleet to say."""
    signed = delegation.extend("kitchen", None, [], [], now=kitchen.now, days=1)
    signed.delegations = Delegations({}, {"other": DelegatedRole("other", [], 1, True, ["*"])})
    assert refused(repository, kitchen.signed(signed)) == "outside-pattern"


def test_what_others_signed_is_not_taken_in(
    repository: Repository, kitchen: Publisher, tmp_path: Path
) -> None:
    """A stranger's key, a role that nobody delegated to, and bytes changed on the way."""
    stranger = Publisher(tmp_path / "stranger")
    bundle = stranger.bundle("kitchen-timer")
    assert refused(repository, stranger.sign(bundle), bundle) == "wrong-signature"
    garage = Publisher(tmp_path / "garage", "garage")
    assert refused(repository, garage.sign(bundle), bundle) == "no-such-role"
    changed = kitchen.sign(bundle).replace(b'"release":1', b'"release":7')
    assert refused(repository, changed, bundle) == "wrong-signature"
    for noise in (b"", b"{}", b"[" * 100_000, b"\xff"):
        assert refused(repository, noise, bundle) == "bad-metadata"


def test_a_threshold_of_holders_must_sign(repository: Repository, tmp_path: Path) -> None:
    """One of two holders is not enough; each signs on a machine of its own."""
    first, second = Publisher(tmp_path / "a"), Publisher(tmp_path / "b")
    delegation.delegate(repository, "kitchen", ["kitchen-*"], first.public + second.public, 2)
    bundle = first.bundle("kitchen-timer")
    data = first.sign(bundle)
    assert refused(repository, data, bundle) == "wrong-signature"
    document = delegation.read(data, "the draft")
    delegation.sign(document, second.keys, "kitchen")
    delegation.take_in(repository, delegation.to_bytes(document), [bundle])
    assert device(repository, tmp_path / "device").newest(bundle.ref)


def test_rollback_of_what_a_publisher_signed_is_refused(
    repository: Repository, kitchen: Publisher
) -> None:
    """An older file, and another one of the same version; the same one again changes nothing."""
    one, two = kitchen.bundle("kitchen-timer"), kitchen.bundle("kitchen-timer", "1.1.0", seed=1)
    first = kitchen.sign(one)
    second = kitchen.sign(two)
    delegation.take_in(repository, second, [one, two])
    snapshot = repository.metadata.snapshot().signed.version
    delegation.take_in(repository, second, [])
    assert repository.metadata.snapshot().signed.version == snapshot
    assert refused(repository, first) == "rollback"
    kitchen.last = first
    assert refused(repository, kitchen.sign(), one, two) == "rollback"


def test_what_a_publisher_signed_long_ago_is_refused(
    repository: Repository, kitchen: Publisher
) -> None:
    """It would stop its own bundles on every device."""
    kitchen.now -= 31 * 86400
    bundle = kitchen.bundle("kitchen-timer")
    assert refused(repository, kitchen.sign(bundle), bundle) == "expired"


def test_a_version_keeps_its_bytes_whoever_signs(
    repository: Repository, kitchen: Publisher, tmp_path: Path
) -> None:
    """Neither the publisher nor the fleet gives a version other bytes, withdrawn ones too."""
    bundle = kitchen.bundle("kitchen-timer")
    other = kitchen.bundle("kitchen-timer", seed=5)
    delegation.take_in(repository, kitchen.sign(bundle), [bundle])
    good = kitchen.last
    with pytest.raises(RefusedError, match="published with other bytes"):
        kitchen.sign(other)
    forged = delegation.extend("kitchen", None, [other], [], now=kitchen.now, days=1, above=5)
    assert refused(repository, kitchen.signed(forged), other) == "version-taken"
    emptied = delegation.extend("kitchen", None, [], [], now=kitchen.now, days=1, above=5)
    assert refused(repository, kitchen.signed(emptied)) == "version-taken"
    kitchen.last = good
    delegation.take_in(repository, kitchen.sign(withdraw=("kitchen-timer", "1.0.0")), [])
    assert bundle.ref not in repository.bundles()
    forgetful = delegation.extend("kitchen", None, [], [], now=kitchen.now, days=1, above=5)
    assert refused(repository, kitchen.signed(forgetful)) == "version-taken"
    with pytest.raises(InputError, match="signing targets needs"):
        repository.publish(other)
    for key in (tmp_path / "safe").iterdir():
        key.rename(tmp_path / "keys" / key.name)
    kept = kitchen.bundle("kitchen-kept")
    kitchen.last = good
    repository.publish(kept)
    taken = kitchen.bundle("kitchen-kept", seed=9)
    clash = delegation.extend(
        "kitchen", delegation.read(good, "").signed if good else None, [taken],
        [("kitchen-timer", "1.0.0")], now=kitchen.now, days=1, above=8,
    )  # fmt: skip
    assert refused(repository, kitchen.signed(clash), taken) == "version-taken"


def test_the_fleet_withdraws_what_a_publisher_signed_by_taking_its_role_away(
    repository: Repository, kitchen: Publisher, tmp_path: Path
) -> None:
    """The fleet cannot sign for it; a role that comes back goes on above its last version."""
    bundle = kitchen.bundle("kitchen-timer")
    delegation.take_in(repository, kitchen.sign(bundle), [bundle])
    with pytest.raises(InputError, match="signed by kitchen"):
        repository.withdraw(bundle.ref)
    for key in (tmp_path / "safe").iterdir():
        key.rename(tmp_path / "keys" / key.name)
    trust = device(repository, tmp_path / "device")
    trust.newest(bundle.ref)
    delegation.revoke(repository, "kitchen")
    assert bundle.ref not in repository.bundles()
    with pytest.raises(RefusedError) as caught:
        trust.newest(bundle.ref)
    assert caught.value.code == "not-published"
    fresh = Publisher(tmp_path / "fresh")
    delegation.delegate(repository, "kitchen", ["kitchen-*"], fresh.public)
    later = fresh.bundle("kitchen-timer", "2.0.0", seed=2)
    assert refused(repository, fresh.sign(later), later) == "rollback"
    delegation.take_in(repository, fresh.sign(), [later])
    assert trust.newest(later.ref) == later.manifest_bytes


def test_new_keys_of_a_publisher_end_what_the_old_ones_signed(
    repository: Repository, tmp_path: Path
) -> None:
    """Until it signs anew: the list of bundles says so, as devices do."""
    old, new = Publisher(tmp_path / "old"), Publisher(tmp_path / "new")
    delegation.delegate(repository, "kitchen", ["kitchen-*"], old.public)
    bundle = old.bundle("kitchen-timer")
    delegation.take_in(repository, old.sign(bundle), [bundle])
    delegation.delegate(repository, "kitchen", ["kitchen-*"], new.public)
    assert bundle.ref not in repository.bundles()
    trust = device(repository, tmp_path / "device")
    with pytest.raises(RefusedError) as caught:
        trust.newest(bundle.ref)
    assert caught.value.code == "wrong-signature"
    new.last = old.last
    delegation.take_in(repository, new.sign(), [])
    assert trust.newest(bundle.ref)


def test_the_targets_role_itself_is_signed_elsewhere(
    repository: Repository, tmp_path: Path
) -> None:
    """Its key never comes to the controller; the version of a restored fleet is gone above."""
    stick = Publisher(tmp_path / "stick", "spare")
    stick.role = "targets"
    for key in (tmp_path / "keys").glob("targets-*"):
        key.rename(tmp_path / "stick" / key.name)
    stick.last = repository.metadata._load("targets", 2)
    bundle = stick.bundle("hall-light")
    delegation.take_in(repository, stick.sign(bundle), [bundle])
    assert device(repository, tmp_path / "device").newest(bundle.ref)
    repository.leap()
    later = stick.bundle("hall-light", "1.1.0", seed=1)
    with pytest.raises(RefusedError, match="--above") as caught:
        delegation.take_in(repository, stick.sign(later), [later])
    assert caught.value.code == "rollback"


@pytest.mark.parametrize(
    ("role", "patterns", "code"),
    [
        ("targets", ["a-*"], "bad-role"),
        ("../x", ["a-*"], "bad-role"),
        ("Kitchen", ["a-*"], "bad-role"),
        ("a", ["a/*"], "bad-pattern"),
        ("a", ["[a-z]*"], "bad-pattern"),
        ("a", [""], "bad-pattern"),
        ("a", [], "bad-pattern"),
        ("a", ["x"] * 17, "bad-pattern"),
    ],
)
def test_a_delegation_that_means_nothing_is_refused(
    repository: Repository, tmp_path: Path, role: str, patterns: list[str], code: str
) -> None:
    """By one clear error, and nothing is signed."""
    version = repository.metadata.targets().signed.version
    with pytest.raises(InputError) as caught:
        delegation.delegate(repository, role, patterns, Publisher(tmp_path / "k").public)
    assert caught.value.code == code
    with pytest.raises(InputError, match="needed: 1 <= threshold"):
        delegation.delegate(repository, "kitchen", ["a"], Publisher(tmp_path / "l").public, 2)
    assert repository.metadata.targets().signed.version == version


def test_a_bundle_whose_files_are_missing_is_not_taken_in(
    repository: Repository, kitchen: Publisher
) -> None:
    """Devices would be told of what nobody can give them."""
    assert refused(repository, kitchen.sign(kitchen.bundle("kitchen-timer"))) == "missing-bundle"


def test_the_difference_is_told_in_words(
    repository: Repository, kitchen: Publisher, tmp_path: Path
) -> None:
    """What appears, disappears and changes; who may sign; until when."""
    one, two = kitchen.bundle("kitchen-timer"), kitchen.bundle("kitchen-hood", seed=1)
    before = delegation.read(kitchen.sign(one), "").signed
    after = delegation.extend(
        "kitchen", delegation.read(kitchen.last or b"", "").signed, [two],
        [("kitchen-timer", "1.0.0")], now=kitchen.now, days=60,
    )  # fmt: skip
    lines = difference.between(before, after)
    assert lines[0] == "version 1 -> 2"
    assert lines[1].startswith("expires ")
    digest = two.ref.manifest_sha256[:12]
    assert lines[2:] == [
        f"appears: bundle kitchen-hood 1.0.0, release 2, manifest {digest}",
        "disappears: bundle kitchen-timer 1.0.0",
        "withdrawn for good: kitchen-timer/1.0.0",
    ]
    name = paths.target("kitchen-timer", "1.0.0")
    forged = delegation.read(kitchen.last or b"", "").signed
    forged.targets[name].hashes["sha256"] = "0" * 64
    (line,) = difference.between(before, forged)[2:]
    assert line.startswith("CHANGES ITS BYTES: bundle kitchen-timer 1.0.0")
    assert difference.between(before, before)[2:] == ["nothing else changes"]

    with_role = repository.metadata.targets().signed
    without = repository.metadata.targets().signed
    without.delegations = None
    key = kitchen.public[0].keyid[:16]
    told = f"kitchen for bundles/kitchen-*, 1 of keys {key}"
    assert difference.between(without, with_role)[2:] == [f"may sign from now on: {told}"]
    assert difference.between(with_role, without)[2:] == [f"may sign no more: {told}"]
    wider = repository.metadata.targets().signed
    assert wider.delegations is not None
    assert wider.delegations.roles is not None
    wider.delegations.roles["kitchen"].paths = ["bundles/*/*/manifest.json"]
    (line,) = difference.between(with_role, wider)[2:]
    assert line == f"role kitchen changes: {told} -> kitchen for bundles/*, 1 of keys {key}"

    root, next_root = (repository.metadata.root().signed for _ in range(2))
    spare = kitchen.keys.generate("spare")
    next_root.add_key(spare, "root")
    next_root.roles["root"].threshold = 2
    assert difference.between(root, next_root)[2:] == [
        f"root: key {spare.keyid[:16]} is added",
        "root: 1 -> 2 of 2 keys must sign",
    ]


def test_signing_a_strange_role_is_refused(kitchen: Publisher) -> None:
    """What is there is of another role; no key of the role is at hand."""
    kitchen.sign()
    with pytest.raises(InputError) as caught:
        delegation.extend(
            "garage", delegation.read(kitchen.last or b"", "").signed, [], [], now=1e9, days=1
        )
    assert caught.value.code == "bad-role"
    with pytest.raises(InputError, match="shoal fleet keys new garage"):
        delegation.sign(delegation.read(kitchen.last or b"", ""), kitchen.keys, "garage")


def test_rotating_the_targets_key_keeps_who_may_sign(
    repository: Repository, tmp_path: Path
) -> None:
    """A delegation is a part of what the targets role signs, whoever holds its key."""
    publisher = Publisher(tmp_path / "kitchen")
    delegation.delegate(repository, "kitchen", ["kitchen-*"], publisher.public)
    bundle = publisher.bundle("kitchen-timer")
    delegation.take_in(repository, publisher.sign(bundle), [bundle])
    trust = device(repository, tmp_path / "device")
    for role in ("targets", "snapshot", "timestamp"):
        rotation.rotate(repository, role)
    assert trust.newest(bundle.ref)
    assert listing.release_of(repository.signed()[paths.target("kitchen-timer", "1.0.0")][1]) == 1
    assert BundleRef("kitchen-timer", "1.0.0", bundle.ref.manifest_sha256) in repository.bundles()
