"""Every attack of the TUF specification (section 1.5.2) by name, against the device's trust.

The attacker is a repository in memory that implements the interface by which the agent reads
a repository over HTTP or MQTT.

Over 400 lines: one attack after the other of one section of a specification.
"""

from __future__ import annotations

import copy
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tuf.api.metadata import MetaFile

from agent.trust import client as trust_module
from agent.trust.client import Trust
from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef
from tests.support.tuf_simulator import NOW, Simulator, new_signer


class Device:
    """A device's trust whose clock a test sets; `restart` begins anew from the same disk."""

    def __init__(self, repository: Simulator, folder: Path) -> None:
        self.repository = repository
        self.folder = folder
        self.now = NOW.timestamp()
        self.root = repository.first_root
        self.restart()

    def restart(self) -> None:
        """A new process on the same disk."""
        self.trust = Trust(self.folder, self.root, self.repository.fetch, clock=lambda: self.now)

    def refused(self) -> str:
        """The code with which a refresh is refused."""
        with pytest.raises(RefusedError) as caught:
            self.trust.refresh()
        return caught.value.code


@pytest.fixture
def device(repository: Simulator, tmp_path: Path) -> Device:
    """A device that has seen the honest state."""
    device = Device(repository, tmp_path / "trust")
    device.trust.refresh()
    return device


# Arbitrary package ------------------------------------------------------------------------


def manifest_path(ref: BundleRef) -> str:
    """Where a manifest is served."""
    return f"targets/bundles/{ref.name}/{ref.version}/{ref.manifest_sha256}.manifest.json"


@pytest.mark.parametrize("sent", [b"[]", b"", b"{} "], ids=["same length", "empty", "longer"])
def test_arbitrary_package_a_manifest_with_other_bytes_is_refused(
    device: Device, ref: BundleRef, sent: bytes
) -> None:
    """Of the same length, shorter, and longer."""
    device.repository.served[manifest_path(ref)] = sent
    with pytest.raises(RefusedError) as caught:
        device.trust.manifest(ref)
    assert caught.value.code in ("wrong-manifest", "endless-data")


def test_arbitrary_package_a_bundle_that_was_never_signed_is_refused(device: Device) -> None:
    """Whoever commands the controller's connection cannot name a bundle of his own."""
    stranger = BundleRef("evil", "1.0.0", "0" * 64)
    with pytest.raises(RefusedError) as caught:
        device.trust.manifest(stranger)
    assert caught.value.code == "not-published"


def test_arbitrary_package_a_signed_version_with_another_manifest_is_refused(
    device: Device,
) -> None:
    """The name and version are known, the manifest asked for is not the signed one."""
    with pytest.raises(RefusedError) as caught:
        device.trust.manifest(BundleRef("noise", "1.0.0", "0" * 64))
    assert caught.value.code == "wrong-manifest"


def test_arbitrary_package_the_honest_manifest_is_accepted(device: Device, ref: BundleRef) -> None:
    """The same path without an attack."""
    assert device.trust.manifest(ref) == b"{}"
    assert device.trust.release(ref) == 1


# Rollback -----------------------------------------------------------------------------------


def test_rollback_of_the_timestamp_is_refused(device: Device) -> None:
    """An older timestamp, rightly signed."""
    device.repository.timestamp.version -= 1
    device.repository.publish_timestamp()
    assert device.refused() == "rollback"
    device.restart()
    assert device.refused() == "rollback"


def test_rollback_of_the_snapshot_is_refused(device: Device) -> None:
    """A new timestamp that names an older snapshot."""
    repository = device.repository
    repository.snapshot.version -= 1
    repository.publish_snapshot()
    repository.timestamp.version += 1
    repository.publish_timestamp()
    device.restart()
    assert device.refused() == "rollback"


def test_rollback_of_the_targets_is_refused(device: Device) -> None:
    """A new snapshot that names older targets: old bundles with known faults."""
    repository = device.repository
    repository.targets.version -= 1
    repository.publish_targets()
    repository.snapshot.version += 1
    repository.publish_snapshot()
    repository.timestamp.version += 1
    repository.publish_timestamp()
    device.restart()
    assert device.refused() == "rollback"


def test_rollback_by_leaving_targets_out_of_the_snapshot_is_refused(device: Device) -> None:
    """A snapshot that no longer speaks of the targets."""
    repository = device.repository
    repository.snapshot.meta = {"other.json": MetaFile(1)}
    repository.snapshot.version += 1
    repository.publish_snapshot()
    repository.timestamp.version += 1
    repository.publish_timestamp()
    assert device.refused() in ("rollback", "bad-metadata")


def test_rollback_of_the_root_is_refused(repository: Simulator, tmp_path: Path) -> None:
    """An old root served as the next one."""
    device = Device(repository, tmp_path)
    repository.served["metadata/2.root.json"] = repository.first_root
    assert device.refused() == "wrong-root"


# Indefinite freeze --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "code"),
    [("timestamp", "freeze"), ("snapshot", "freeze"), ("targets", "expired"), ("root", "expired")],
)
def test_indefinite_freeze_expired_metadata_is_refused(
    repository: Simulator, tmp_path: Path, role: str, code: str
) -> None:
    """Each role in turn runs out, for a new device and for one that trusted it before."""
    known = Device(repository, tmp_path / "known")
    getattr(repository, role).expires = NOW + timedelta(days=1)
    if role == "root":
        repository.publish_root()
    repository.publish()
    known.trust.refresh()
    for device in (known, Device(repository, tmp_path / "new")):
        device.now = (NOW + timedelta(days=2)).timestamp()
        device.restart()
        assert device.refused() == code


def test_indefinite_freeze_ends_when_fresh_metadata_arrives(device: Device) -> None:
    """An expired timestamp on disk does not hold the device back."""
    device.now = (NOW + timedelta(days=40)).timestamp()
    device.restart()
    assert device.refused() == "freeze"
    for role in ("root", "targets", "snapshot", "timestamp"):
        getattr(device.repository, role).expires = NOW + timedelta(days=90)
    device.repository.publish_root()
    device.repository.publish()
    device.trust.refresh()


# Mix-and-match ------------------------------------------------------------------------------


def test_mix_and_match_a_snapshot_of_another_time_is_refused(device: Device) -> None:
    """A rightly signed older snapshot in the place of the one that the timestamp names."""
    repository = device.repository
    old = repository.served["metadata/2.snapshot.json"]
    repository.publish()
    repository.served["metadata/3.snapshot.json"] = old
    assert device.refused() in ("mix-and-match", "endless-data")


def test_mix_and_match_targets_of_another_time_are_refused(device: Device) -> None:
    """Rightly signed other targets in the place of the ones that the snapshot names."""
    repository = device.repository
    repository.publish()
    other = copy.deepcopy(repository.targets)
    other.expires = NOW + timedelta(days=29)
    repository.served["metadata/3.targets.json"] = repository.sign(other)
    assert device.refused() == "mix-and-match"


def test_mix_and_match_by_version_is_refused_where_no_hash_is_given(device: Device) -> None:
    """Hashes are optional in TUF: the version alone must hold then."""
    repository = device.repository
    repository.publish()
    repository.snapshot.meta["targets.json"] = MetaFile(4)
    repository.served["metadata/4.targets.json"] = repository.sign(repository.targets)
    repository.publish_snapshot()
    repository.timestamp.snapshot_meta = MetaFile(3)
    repository.publish_timestamp()
    assert device.refused() == "mix-and-match"


def test_mix_and_match_a_role_in_the_place_of_another_is_refused(device: Device) -> None:
    """A snapshot is no timestamp, though both are rightly signed."""
    repository = device.repository
    repository.served["metadata/timestamp.json"] = repository.sign(
        repository.snapshot, repository.signers["timestamp"]
    )
    assert device.refused() == "bad-metadata"


# Endless data ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "metadata/2.root.json",
        "metadata/timestamp.json",
        "metadata/3.snapshot.json",
        "metadata/3.targets.json",
    ],
)
@pytest.mark.parametrize("polite", [True, False])
def test_endless_data_is_cut_off_at_the_cap(device: Device, path: str, polite: bool) -> None:
    """Whether the fetcher keeps to the cap or not; a signed length is the cap where there is."""
    repository = device.repository
    repository.publish()
    caps = []

    def endless(cap: int) -> bytes:
        caps.append(cap)
        if polite:
            raise InputError("too-large", "endless")
        return b"x" * (cap + 1)

    signed = repository.served.get(path)
    repository.served[path] = endless
    assert device.refused() == "endless-data"
    if "snapshot" in path or "targets" in path:
        assert isinstance(signed, bytes)
        assert caps == [len(signed)]
    assert max(caps) <= 512 * 1024


def test_endless_data_a_manifest_longer_than_signed_is_cut_off(
    device: Device, ref: BundleRef
) -> None:
    """The device asks for the signed length and not a byte more."""
    device.repository.served[manifest_path(ref)] = lambda cap: b"x" * 10**6
    with pytest.raises(RefusedError) as caught:
        device.trust.manifest(ref)
    assert caught.value.code == "endless-data"
    assert device.repository.asked[-1] == (manifest_path(ref), 2)


def test_endless_data_roots_without_end_are_cut_off(
    repository: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compromised root key cannot keep a device walking for ever."""
    monkeypatch.setattr(trust_module, "MAX_ROOT_ROTATIONS", 5)
    for _ in range(6):
        repository.publish_root()
    assert Device(repository, tmp_path).refused() == "wrong-root"


# Slow retrieval and malicious mirrors ---------------------------------------------------------


def test_slow_retrieval_a_refresh_has_a_time_limit(repository: Simulator, tmp_path: Path) -> None:
    """However many small files a mirror makes a device fetch slowly."""
    time = [0.0]

    def slow(path: str, cap: int) -> bytes:
        time[0] += 200
        return repository.fetch(path, cap)

    repository.publish_root()
    trust = Trust(
        tmp_path, repository.first_root, slow, clock=NOW.timestamp, monotonic=lambda: time[0]
    )
    with pytest.raises(UnavailableError) as caught:
        trust.refresh()
    assert caught.value.code == "slow-retrieval"


def test_malicious_mirror_that_serves_nothing_leaves_the_old_trust(
    device: Device, ref: BundleRef
) -> None:
    """What was accepted stays; the device says that the repository is not there."""
    manifest = device.repository.served[manifest_path(ref)]
    device.repository.served = {}
    with pytest.raises(ShoalError) as caught:
        device.trust.refresh()
    assert caught.value.code == "no-such-path"
    device.repository.served = {manifest_path(ref): manifest}
    assert device.trust.manifest(ref) == b"{}"


# Fast-forward ----------------------------------------------------------------------------------


def test_fast_forward_is_recovered_from_by_new_keys(device: Device) -> None:
    """A thief of the online keys signs the highest version; new keys let the fleet go on."""
    repository = device.repository
    honest = repository.timestamp.version, repository.snapshot.version
    repository.timestamp.version = repository.snapshot.version = 2**31 - 2
    repository.publish()
    device.trust.refresh()

    repository.timestamp.version, repository.snapshot.version = honest
    repository.publish()
    device.restart()
    assert device.refused() == "rollback"

    repository.rotate("timestamp")
    repository.rotate("snapshot")
    repository.publish_root()
    repository.publish()
    device.restart()
    device.trust.refresh()


# Compromised keys --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_key_compromise_metadata_signed_by_another_key_is_refused(
    device: Device, role: str
) -> None:
    """A key that the root does not list, or lists for another role."""
    repository = device.repository
    others = [r for r in ("root", "targets", "snapshot", "timestamp") if r != role]
    honest = repository.signers[role]
    for signer in [new_signer(), *(repository.signers[other][0] for other in others)]:
        repository.signers[role] = [signer]
        repository.publish()
        assert device.refused() == "wrong-signature"
    repository.signers[role] = honest
    repository.publish()
    device.trust.refresh()


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_key_compromise_below_the_threshold_is_refused(device: Device, role: str) -> None:
    """One of three keys is stolen and two must sign; the same signature twice is one."""
    repository = device.repository
    repository.rotate(role, count=3, threshold=2)
    repository.publish_root()
    keys = repository.signers[role]
    repository.signers[role] = keys[:1]
    repository.publish()
    assert device.refused() == "wrong-signature"
    repository.signers[role] = keys[1:]
    repository.publish()
    device.trust.refresh()


def test_key_compromise_one_key_under_two_ids_counts_once(device: Device) -> None:
    """A root that lists one key under two ids does not let its holder reach a threshold of two."""
    repository = device.repository
    repository.rotate("timestamp", count=1, threshold=2)
    key = repository.signers["timestamp"][0].public_key
    double = copy.deepcopy(key)
    double.keyid = "f" * 64
    repository.root.add_key(double, "timestamp")
    repository.publish_root()
    repository.timestamp.version += 1
    document = json.loads(repository.sign(repository.timestamp))
    first = document["signatures"][0]
    document["signatures"].append({"keyid": "f" * 64, "sig": first["sig"]})
    repository.served["metadata/timestamp.json"] = json.dumps(document).encode()
    assert device.refused() == "wrong-root"


def test_key_compromise_the_same_signature_twice_is_refused(device: Device) -> None:
    """Two entries of one key id."""
    repository = device.repository
    repository.rotate("timestamp", count=2, threshold=2)
    repository.publish_root()
    repository.timestamp.version += 1
    document = json.loads(repository.sign(repository.timestamp))
    document["signatures"] = [document["signatures"][0]] * 2
    repository.served["metadata/timestamp.json"] = json.dumps(document).encode()
    assert device.refused() in ("wrong-signature", "bad-metadata")


def test_key_compromise_a_signature_under_the_wrong_key_id_is_refused(device: Device) -> None:
    """The signature is right, but says it is of another listed key."""
    repository = device.repository
    repository.timestamp.version += 1
    document = json.loads(repository.sign(repository.timestamp))
    document["signatures"][0]["keyid"] = repository.signers["root"][0].public_key.keyid
    repository.served["metadata/timestamp.json"] = json.dumps(document).encode()
    assert device.refused() == "wrong-signature"


def test_key_compromise_metadata_that_was_changed_after_signing_is_refused(
    device: Device,
) -> None:
    """One field, signature kept."""
    repository = device.repository
    repository.publish()
    document = json.loads(repository.sign(repository.timestamp))
    document["signed"]["version"] += 1
    repository.served["metadata/timestamp.json"] = json.dumps(document).encode()
    assert device.refused() == "wrong-signature"


# Root rotation ------------------------------------------------------------------------------------


def test_root_rotation_is_followed_over_versions_that_a_device_missed(
    repository: Simulator, tmp_path: Path
) -> None:
    """Root keys change five times while the device is away, each step signed by the last."""
    device = Device(repository, tmp_path)
    device.trust.refresh()
    for _ in range(5):
        old = repository.rotate("root", count=2, threshold=2)
        repository.publish_root([*old, *repository.signers["root"]])
    repository.rotate("timestamp")
    repository.publish_root()
    repository.publish()
    device.restart()
    device.trust.refresh()
    # Known roots come from the disk from then on: only the next one is asked for.
    repository.asked.clear()
    device.restart()
    device.trust.refresh()
    assert [path for path, _ in repository.asked if "root" in path] == ["metadata/8.root.json"]


def test_wrong_root_signed_only_by_the_new_keys_is_refused(device: Device) -> None:
    """An attacker makes a root of his own."""
    device.repository.rotate("root")
    device.repository.publish_root()
    assert device.refused() == "wrong-root"


def test_wrong_root_signed_only_by_the_old_keys_is_refused(device: Device) -> None:
    """The new root must prove that its own keys exist."""
    old = device.repository.rotate("root")
    device.repository.publish_root(old)
    assert device.refused() == "wrong-root"


def test_wrong_root_that_skips_a_version_is_refused(device: Device) -> None:
    """Rightly signed, but the next must be the next."""
    repository = device.repository
    repository.publish_root()
    repository.served["metadata/2.root.json"] = repository.publish_root()
    assert device.refused() == "wrong-root"


def test_wrong_root_of_another_fleet_is_refused(device: Device) -> None:
    """And its metadata with it."""
    other = Simulator()
    other.publish_root()
    other.publish()
    device.repository.served = other.served
    assert device.refused() == "wrong-root"
    del device.repository.served["metadata/2.root.json"]
    assert device.refused() == "wrong-signature"


@pytest.mark.parametrize("root", [b"", b"{}", b"\xff", b"[" * 10_000, b"null"])
def test_wrong_root_from_enrolment_is_refused(
    repository: Simulator, tmp_path: Path, root: bytes
) -> None:
    """A provisioning file whose root is noise."""
    with pytest.raises(RefusedError) as caught:
        Trust(tmp_path, root, repository.fetch).refresh()
    assert caught.value.code == "bad-metadata"


def test_a_device_that_moves_to_another_fleet_trusts_nothing_of_the_old_one(
    device: Device, tmp_path: Path
) -> None:
    """Enrolled anew over the old folder: the new root counts, stored metadata does not."""
    device.repository.publish_root()
    device.trust.refresh()
    other = Simulator()
    other.publish()
    moved = Device(other, device.folder)
    moved.trust.refresh()
    with pytest.raises(RefusedError) as caught:
        moved.trust.manifest(Simulator().add_bundle())
    assert caught.value.code == "not-published"


# Clock --------------------------------------------------------------------------------------------


def test_a_device_without_a_set_clock_says_so_and_still_refuses_rollback(device: Device) -> None:
    """In 1970 nothing can be judged by its expiry; order still can."""
    device.now = 1000.0
    device.restart()
    assert device.trust.clock == "unsynced"
    device.trust.refresh()
    device.repository.timestamp.version -= 1
    device.repository.publish_timestamp()
    assert device.refused() == "rollback"


def test_a_device_without_a_set_clock_updates_from_expired_metadata(
    repository: Simulator, tmp_path: Path
) -> None:
    """Expiry is skipped, signatures are not."""
    for role in ("root", "targets", "snapshot", "timestamp"):
        getattr(repository, role).expires = datetime(2021, 1, 1, tzinfo=timezone.utc)
    repository.publish_root()
    repository.publish()
    device = Device(repository, tmp_path)
    assert device.trust.clock == "synced"
    assert device.refused() == "expired"
    device.now = 0.0
    device.restart()
    device.trust.refresh()
    repository.signers["timestamp"] = [new_signer()]
    repository.publish()
    assert device.refused() == "wrong-signature"
