"""Delegated roles: a publisher signs bundles of some names with keys of its own.

The targets role lists, for each delegated role, patterns of names, keys and a threshold
(:func:`delegate`). The publisher signs on its own machine (:func:`extend`, :func:`sign`); the
controller, which has the online keys alone, checks what it is handed and takes it in
(:func:`take_in`). The same way serves for the targets role itself, when its key is elsewhere.

Source: TUF specification 1.0.33, sections 4.5 and 6.4. Delegations are terminating: what one
role's patterns cover, no role after it signs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Final

import msgspec
from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from contracts import limits
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError
from contracts.messages import BundleRef
from fleet.repository import listing, paths
from fleet.repository.keys import KeyFolder
from fleet.repository.metadata import delegated_roles, expires
from fleet.repository.repository import Repository

MAX_DELEGATED: Final = 16
MAX_PATTERNS: Final = 16
MAX_KEYS: Final = 16
ROLE: Final = "x-shoal-role"
"""Field of a role that was signed elsewhere: which role it is of."""

_PATTERN: Final = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9*?._-]{0,63}", re.ASCII)
_COMPACT: Final = JSONSerializer(compact=True, validate=True)
_LAST_VERSION: Final = 9_999_999_999


class Delegation(msgspec.Struct, frozen=True):
    """A delegated role, for people.

    Attributes:
        version: of what it signed last; 0: nothing yet.
    """

    role: str
    patterns: list[str]
    threshold: int
    keys: list[str]
    version: int
    bundles: int


def every(repository: Repository) -> list[Delegation]:
    """All delegated roles, the first to be asked first."""
    targets = repository.metadata.targets().signed
    signed = [role for role, _ in repository.signed().values()]
    return [
        Delegation(
            role.name,
            [path.split("/")[1] for path in role.paths or []],
            role.threshold,
            list(role.keyids),
            repository.metadata.delegated_version(role.name),
            signed.count(role.name),
        )
        for role in delegated_roles(targets)
    ]


# With the targets key. ----------------------------------------------------------------------


def delegate(
    repository: Repository,
    role: str,
    patterns: Sequence[str],
    public: Sequence[SSlibKey],
    threshold: int = 1,
) -> None:
    """Lets a role sign bundles whose names match; replaces what the role had before.

    Args:
        repository: opened with the targets key.
        role: the publisher's name.
        patterns: of bundle names, with ``*`` and ``?``.
        public: the publisher's keys.
        threshold: how many of them must sign.

    Raises:
        InputError: ``bad-role``, ``bad-pattern``, ``bad-threshold``, ``key-missing``.
    """
    paths.check_role(role)
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise InputError(
                "bad-pattern", f"{pattern[:80]!r} is no pattern of bundle names, as 'kitchen-*'"
            )
    if not 1 <= len(patterns) <= MAX_PATTERNS:
        raise InputError("bad-pattern", f"1 to {MAX_PATTERNS} patterns, got {len(patterns)}")
    if not 1 <= threshold <= len({key.keyid for key in public}) <= MAX_KEYS:
        raise InputError(
            "bad-threshold",
            f"{role}: {threshold} of {len(public)} keys; needed: 1 <= threshold <= keys <= "
            f"{MAX_KEYS}",
        )
    with repository.locked():
        targets = repository.metadata.targets().signed
        if targets.delegations is None:
            targets.delegations = Delegations({}, {})
        roles = targets.delegations.roles
        assert roles is not None
        if role not in roles and len(roles) >= MAX_DELEGATED:
            raise InputError("too-many-roles", f"{MAX_DELEGATED} roles are delegated already")
        for keyid in list(roles[role].keyids) if role in roles else []:
            targets.revoke_key(keyid, role)
        globs = [f"bundles/{pattern}/*/manifest.json" for pattern in patterns]
        roles[role] = DelegatedRole(role, [], threshold, True, globs)
        for key in public:
            targets.add_key(key, role)
        targets.version += 1
        repository.metadata.write_targets(targets)


def revoke(repository: Repository, role: str) -> None:
    """Takes a delegation away: devices install nothing more that the role signed.

    Raises:
        InputError: ``no-such-role``, ``key-missing``.
    """
    with repository.locked():
        targets = repository.metadata.targets().signed
        roles = targets.delegations.roles if targets.delegations is not None else None
        if not roles or role not in roles:
            raise InputError("no-such-role", f"nothing is delegated to {role[:40]!r}")
        for keyid in list(roles[role].keyids):
            targets.revoke_key(keyid, role)
        del roles[role]
        # The snapshot goes on naming the role's last version: leaving it out, or beginning anew
        # below it, would be a rollback to devices.
        targets.version += 1
        repository.metadata.write_targets(targets)


# Where the role's key is. -------------------------------------------------------------------


def read(data: bytes, what: str) -> Metadata[Targets]:
    """Metadata of the targets kind, signed or not.

    Raises:
        InputError: ``bad-metadata``.
    """
    try:
        if len(data) > limits.MAX_METADATA_BYTES:
            raise InputError("bad-metadata", f"{what} is over {limits.MAX_METADATA_BYTES} bytes")
        document = Metadata[Targets].from_bytes(data)
    except RepositoryError as error:
        raise InputError(
            "bad-metadata", f"{what} is not signed metadata: {str(error)[:200]}"
        ) from None
    if not isinstance(document.signed, Targets):
        raise InputError("bad-metadata", f"{what} is not metadata of a role that lists bundles")
    return document


def role_of(signed: Targets) -> str:
    """The role that signs it: as it says itself; ``targets``: it does not say."""
    role = signed.unrecognized_fields.get(ROLE, "targets")
    return role if isinstance(role, str) else ""


def extend(
    role: str,
    current: Targets | None,
    bundles: Sequence[Bundle],
    withdraw: Sequence[tuple[str, str]],
    *,
    now: float,
    days: int,
    above: int = 0,
) -> Targets:
    """The next version of what a role lists, unsigned.

    Args:
        role: a delegated role, or ``targets``.
        current: what it listed before; None: nothing.
        bundles: to list.
        withdraw: names and versions to take out.
        now: seconds since the epoch.
        days: for how long the signature counts.
        above: version and release counters are above this.

    Raises:
        RefusedError: ``version-taken``.
        InputError: ``bad-role``, ``no-such-bundle``.
    """
    if role != "targets":
        paths.check_role(role)
    if current is not None and role_of(current) != role:
        raise InputError("bad-role", f"what is there is of {role_of(current)!r}, not of {role!r}")
    targets = current or Targets()
    targets.version = max(targets.version + 1 if current else 1, above + 1)
    targets.expires = expires(now, days)
    if role != "targets":
        targets.unrecognized_fields[ROLE] = role
    for name, version in withdraw:
        known = targets.targets.get(paths.target(name, version))
        digest = known.hashes.get("sha256", "") if known else ""
        listing.remove(targets, BundleRef(name, version, digest))
    for bundle in bundles:
        listing.check_free(targets, bundle.ref)
        if paths.target(bundle.ref.name, bundle.ref.version) not in targets.targets:
            listing.add(targets, bundle, above)
    return targets


def sign(document: Metadata[Targets], keys: KeyFolder, role: str) -> list[str]:
    """Adds the signatures of the keys that a folder has for a role.

    Returns:
        The ids of all keys that have signed.

    Raises:
        InputError: ``key-missing``, and what opening keys raises.
    """
    signers = keys.of(role)
    if not signers:
        raise InputError(
            "key-missing",
            f"{keys.folder} has no key for {role}: make one with `shoal fleet keys new {role}`",
        )
    for signer in signers:
        document.sign(signer, append=True)
    return sorted(document.signatures)


def to_bytes(document: Metadata[Targets]) -> bytes:
    """As it is stored and served."""
    return document.to_bytes(_COMPACT)


# Where the online keys are. -----------------------------------------------------------------


def take_in(repository: Repository, data: bytes, bundles: Sequence[Bundle]) -> str:
    """Publishes what was signed elsewhere; again with the same bytes changes nothing.

    Args:
        repository: opened with the online keys.
        data: the signed metadata of a delegated role, or of the targets role.
        bundles: those of its bundles that are not here yet.

    Returns:
        The role.

    Raises:
        RefusedError: ``wrong-signature``, ``rollback``, ``expired``, ``outside-pattern``,
            ``version-taken``; nothing was changed.
        InputError: ``bad-metadata``, ``no-such-role``, ``missing-bundle``, ``key-missing``.
    """
    document = read(data, "what was signed")
    signed, role = document.signed, role_of(document.signed)
    with repository.locked():
        store = repository.metadata
        targets = store.targets().signed
        before = repository.signed()
        entry = _entry(targets, role)
        _check_signatures(store.root().signed if entry is None else targets, role, document)
        version = targets.version if entry is None else store.delegated_version(role)
        if (
            signed.version == version
            and to_bytes(document)
            == (repository.folder / paths.metadata(role, version)).read_bytes()
        ):
            return role
        lowest = max(version + 1, store.floor() if entry is None else 0)
        if not lowest <= signed.version <= _LAST_VERSION:
            raise RefusedError(
                "rollback",
                f"{role} is signed as version {signed.version}, expected {lowest} or above: sign "
                f"again from the newest, or with --above {lowest - 1}",
            )
        if signed.is_expired(datetime.fromtimestamp(store.clock(), timezone.utc)):
            raise RefusedError("expired", f"{role} was signed until {signed.expires.isoformat()}")
        old = targets if entry is None else store.delegated(role, targets)
        _check_targets(repository, signed, role, entry, old, bundles)
        for bundle in bundles:
            repository.write_content(bundle, before)
        store.write_signed(role, signed.version, to_bytes(document))
    return role


def _entry(targets: Targets, role: str) -> DelegatedRole | None:
    if role == "targets":
        return None
    for entry in delegated_roles(targets):
        if entry.name == role:
            return entry
    raise InputError(
        "no-such-role",
        f"nothing is delegated to {role[:40]!r}: with the targets key at hand, "
        "`shoal fleet keys delegate`",
    )


def _check_signatures(above: Root | Targets, role: str, document: Metadata[Targets]) -> None:
    result = above.get_verification_result(role, document.signed_bytes, document.signatures)
    if not result.verified:
        raise RefusedError(
            "wrong-signature",
            f"{role} is signed by {len(result.signed)} of the {result.threshold} keys that must",
        )


def _check_targets(
    repository: Repository,
    signed: Targets,
    role: str,
    entry: DelegatedRole | None,
    old: Targets,
    bundles: Sequence[Bundle],
) -> None:
    if entry is not None and signed.delegations is not None:
        raise RefusedError("outside-pattern", f"{role} delegates further, which it may not")
    here = {bundle.ref for bundle in bundles}
    others = {
        name: target for name, (by, target) in repository.signed().items() if by != role
    }  # fmt: skip
    gone = listing.withdrawn(signed)
    for name, target in signed.targets.items():
        ref, release = listing.ref_of(target), listing.release_of(target)
        if ref is None or release < 1:
            raise InputError("bad-metadata", f"{role} lists {name[:200]!r}, which is no bundle")
        paths.check(paths.manifest(ref))
        if entry is not None and not entry.is_delegated_path(name):
            allowed = ", ".join(path.split("/")[1] for path in entry.paths or [])
            raise RefusedError(
                "outside-pattern", f"{role} signs {ref}, but may sign {allowed} alone"
            )
        listing.check_free(old, ref)
        if entry is not None:
            listing.check_free(repository.metadata.targets().signed, ref)
        if name in others and listing.ref_of(others[name]) != ref:
            raise RefusedError("version-taken", f"{ref} is published with other bytes")
        if ref not in here and not (repository.folder / paths.manifest(ref)).is_file():
            raise InputError(
                "missing-bundle", f"{role} signs {ref}: give its folder or file as well"
            )
    for name, target in old.targets.items():
        was = listing.ref_of(target)
        if was is None or name in signed.targets:
            continue
        if gone.get(f"{was.name}/{was.version}") != was.manifest_sha256:
            raise RefusedError(
                "version-taken",
                f"{was} is gone from {role} and not among what it withdrew: sign from the "
                "newest file",
            )
    for key, sha256 in listing.withdrawn(old).items():
        name = paths.target(*key.split("/", 1)) if "/" in key else ""
        back = signed.targets.get(name)
        if gone.get(key) != sha256 and (back is None or back.hashes.get("sha256") != sha256):
            raise RefusedError("version-taken", f"{role} forgets that it withdrew {key[:100]}")
