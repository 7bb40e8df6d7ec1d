"""A repository in memory that can attack: it implements the production fetch interface.

After python-tuf's repository simulator: the honest state is a set of metadata objects that a
test edits; what is served is signed when it is published, and any path can be overridden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from contracts.bundle import sha256_of
from contracts.errors import InputError
from contracts.messages import BundleRef

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
ROLES = ("root", "targets", "snapshot", "timestamp")
Served = bytes | Exception | Callable[[int], bytes]


def new_signer() -> CryptoSigner:
    """An Ed25519 key that lives in memory."""
    return CryptoSigner(Ed25519PrivateKey.generate())


class Simulator:
    """A repository in memory.

    Attributes:
        served: what each path gives: bytes, an error, or a function of the cap.
        asked: every path that was asked for, with its cap.
        signers: the keys of each role; the first `threshold` of the role sign.
        delegated: the roles below the targets role, by name.
    """

    def __init__(self) -> None:
        self.served: dict[str, Served] = {}
        self.asked: list[tuple[str, int]] = []
        self.signers: dict[str, list[CryptoSigner]] = {role: [new_signer()] for role in ROLES}
        self.delegated: dict[str, Targets] = {}
        far = NOW + timedelta(days=30)
        self.root = Root(expires=NOW + timedelta(days=300), consistent_snapshot=True)
        self.targets = Targets(expires=far)
        self.snapshot = Snapshot(expires=far)
        self.timestamp = Timestamp(expires=far)
        for signed in (self.root, self.targets, self.snapshot, self.timestamp):
            signed.version = 0  # publishing makes it 1
        for role in ROLES:
            self.root.add_key(self.signers[role][0].public_key, role)
        self.publish_root()
        self.publish()

    def fetch(self, path: str, cap: int) -> bytes:
        """The production interface: :data:`agent.trust.client.Fetch`."""
        self.asked.append((path, cap))
        found = self.served.get(path)
        if found is None:
            raise InputError("no-such-path", f"no {path}")
        if isinstance(found, Exception):
            raise found
        if callable(found):
            return found(cap)
        if len(found) > cap:
            raise InputError("too-large", f"{path} has {len(found)} bytes")
        return found

    def sign(self, signed: Signed, signers: list[CryptoSigner] | None = None) -> bytes:
        """`signed` as bytes, signed by `signers` (None: the role's)."""
        document = Metadata(signed)
        for signer in self.signers[signed.type] if signers is None else signers:
            document.sign(signer, append=True)
        return document.to_bytes()

    def publish_root(self, signers: list[CryptoSigner] | None = None) -> bytes:
        """Serves the next version of the root."""
        self.root.version += 1
        data = self.sign(self.root, signers)
        self.served[f"metadata/{self.root.version}.root.json"] = data
        return data

    @property
    def first_root(self) -> bytes:
        """The root that devices are shipped with."""
        first = self.served["metadata/1.root.json"]
        assert isinstance(first, bytes)
        return first

    def publish(self) -> None:
        """Serves the next targets, snapshot and timestamp."""
        self.targets.version += 1
        self.publish_targets()
        self.snapshot.version += 1
        self.publish_snapshot()
        self.timestamp.version += 1
        self.publish_timestamp()

    def publish_targets(self) -> None:
        """Serves the targets under their version, and puts them into the snapshot."""
        for role in self.delegated:
            self.publish_delegated(role)
        data = self.sign(self.targets)
        self.served[f"metadata/{self.targets.version}.targets.json"] = data
        self.snapshot.meta["targets.json"] = MetaFile.from_data(
            self.targets.version, data, ["sha256"]
        )

    def delegate(
        self,
        role: str,
        *paths: str,
        by: str = "targets",
        terminating: bool = False,
        threshold: int = 1,
    ) -> Targets:
        """Lets a role sign targets of some names (publish to serve it)."""
        delegator = self.targets if by == "targets" else self.delegated[by]
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, {})
        assert delegator.delegations.roles is not None
        entry = DelegatedRole(role, [], threshold, terminating, list(paths))
        delegator.delegations.roles[role] = entry
        for signer in self.signers.setdefault(role, [new_signer() for _ in range(threshold)]):
            delegator.add_key(signer.public_key, role)
        if role not in self.delegated:
            self.delegated[role] = Targets(expires=self.targets.expires)
            self.delegated[role].version = 0  # publishing makes it 1
        return self.delegated[role]

    def publish_delegated(self, role: str, signers: list[CryptoSigner] | None = None) -> bytes:
        """Serves the next version of a delegated role, and puts it into the snapshot."""
        signed = self.delegated[role]
        signed.version += 1
        data = self.sign(signed, self.signers[role] if signers is None else signers)
        self.served[f"metadata/{signed.version}.{quote(role, safe='')}.json"] = data
        self.snapshot.meta[f"{role}.json"] = MetaFile.from_data(signed.version, data, ["sha256"])
        return data

    def publish_snapshot(self) -> None:
        """Serves the snapshot under its version, and puts it into the timestamp."""
        data = self.sign(self.snapshot)
        self.served[f"metadata/{self.snapshot.version}.snapshot.json"] = data
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, data, ["sha256"])

    def publish_timestamp(self) -> None:
        """Serves the timestamp."""
        self.served["metadata/timestamp.json"] = self.sign(self.timestamp)

    def add_bundle(
        self,
        name: str = "noise",
        version: str = "1.0.0",
        data: bytes = b"{}",
        *,
        role: str = "targets",
        hashes: Sequence[str] = ("sha256",),
    ) -> BundleRef:
        """Puts a manifest into the targets or a delegated role (publish to serve them)."""
        targets = self.targets if role == "targets" else self.delegated[role]
        ref = BundleRef(name, version, sha256_of(data))
        path = f"bundles/{name}/{version}/manifest.json"
        entry = TargetFile.from_data(path, data, list(hashes))
        entry.unrecognized_fields["custom"] = {"release": len(targets.targets) + 1}
        targets.targets[entry.path] = entry
        for digest in entry.hashes.values():
            self.served[f"targets/bundles/{name}/{version}/{digest}.manifest.json"] = data
        return ref

    def rotate(self, role: str, *, count: int = 1, threshold: int = 1) -> list[CryptoSigner]:
        """Gives a role new keys; returns the old ones. Publish the root to serve it."""
        old = self.signers[role]
        for signer in old:
            self.root.revoke_key(signer.public_key.keyid, role)
        self.signers[role] = [new_signer() for _ in range(count)]
        for signer in self.signers[role]:
            self.root.add_key(signer.public_key, role)
        self.root.roles[role].threshold = threshold
        return old
