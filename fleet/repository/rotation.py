"""New keys and thresholds: root rotation, without a moment in which devices are refused.

A role's metadata is first signed by the old keys and the new, then the new root is written:
devices that know the old root and devices that know the new one both accept it, whatever
moment the power goes. Source: TUF specification 1.0.33, sections 5.3 and 6.1.

People who keep root keys apart do it in three steps: :func:`propose` writes a draft,
each holder adds a signature with :func:`sign_draft`, and :func:`apply` publishes it once the
thresholds of the old and the new root are met.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization.json import JSONSerializer

from contracts import limits
from contracts.errors import InputError
from fleet import durable
from fleet.repository.keys import ROLES, KeyFolder
from fleet.repository.metadata import expires
from fleet.repository.repository import Repository

MAX_KEYS: Final = 16


class KeyInfo(msgspec.Struct, frozen=True):
    """One key of a role: its id, and whether the private half is at hand."""

    role: str
    keyid: str
    at_hand: bool


class RoleInfo(msgspec.Struct, frozen=True):
    """A role's keys and how many of them must sign."""

    role: str
    threshold: int
    expires: str
    keys: list[KeyInfo]


def describe(repository: Repository) -> list[RoleInfo]:
    """Every role with its keys, threshold and expiry, for people."""
    root = repository.metadata.root().signed
    ends = repository.expiries()
    found = []
    for name in ROLES:
        keys = _keys(root, name)
        have = {signer.public_key.keyid for signer in repository.metadata.keys.signers(keys)}
        found.append(
            RoleInfo(
                name,
                root.roles[name].threshold,
                ends[name].isoformat(),
                [KeyInfo(name, key.keyid, key.keyid in have) for key in keys],
            )
        )
    return found


def rotate(
    repository: Repository,
    role: str,
    *,
    add: int = 1,
    public: Sequence[SSlibKey] = (),
    remove: Iterable[str] | None = None,
    threshold: int | None = None,
) -> int:
    """Gives a role new keys and takes old ones away, all keys that must sign being at hand.

    Args:
        repository: opened with its keys.
        role: ``root``, ``targets``, ``snapshot`` or ``timestamp``.
        add: how many new keys are made, here.
        public: new keys whose holders made them and keep the private halves.
        remove: ids (or their beginnings) of keys to take away; None: all old ones.
        threshold: how many keys must sign from now on; None: as before, or as many as there are.

    Returns:
        The version of the new root.

    Raises:
        InputError: ``unknown-role``, ``no-such-key``, ``bad-threshold``, ``key-missing``.
    """
    with repository.locked():
        root = _next(repository)
        _change(repository.metadata.keys, root, role, add, public, remove, threshold)
        return _publish(repository, root)


def propose(
    repository: Repository,
    draft: Path,
    role: str,
    *,
    add: int = 1,
    public: Sequence[SSlibKey] = (),
    remove: Iterable[str] | None = None,
    threshold: int | None = None,
) -> None:
    """Writes a draft of a new root, signed by the keys at hand; see :func:`rotate`.

    Raises:
        InputError: as :func:`rotate`; ``already-there`` when the draft exists.
    """
    with repository.locked():
        root = _next(repository)
        _change(repository.metadata.keys, root, role, add, public, remove, threshold)
    if draft.exists():
        raise InputError("already-there", f"{draft} exists: apply it or remove it first")
    _write_draft(
        draft, _sign(Metadata(root), repository.metadata.keys, _authorities(repository, root))
    )


def sign_draft(repository: Repository, draft: Path, keys: KeyFolder) -> list[str]:
    """Adds the signatures of those keys in `keys` that count for the draft.

    Returns:
        The ids of all keys that have signed.

    Raises:
        InputError: ``bad-draft``, ``key-missing`` when none of the keys counts.
    """
    document = read_draft(repository, draft)
    before = set(document.signatures)
    _sign(document, keys, _authorities(repository, document.signed))
    signed = set(document.signatures)
    if not signed - before:
        raise InputError("key-missing", f"{keys.folder} has no key that this draft still needs")
    _write_draft(draft, document)
    return sorted(signed)


def apply(repository: Repository, draft: Path) -> int:
    """Publishes a draft that the old and the new root's thresholds are met for.

    Returns:
        The version of the new root.

    Raises:
        InputError: ``bad-draft``, ``key-missing``.
    """
    with repository.locked():
        document = read_draft(repository, draft)
        for authority in _authorities(repository, document.signed):
            result = authority.get_verification_result(
                "root", document.signed_bytes, document.signatures
            )
            if not result.verified:
                raise InputError(
                    "key-missing",
                    f"the draft has {len(result.signed)} of the {result.threshold} signatures "
                    f"that root version {authority.version} asks for",
                )
        return _publish(repository, document.signed, document)


def is_root(draft: Path) -> bool:
    """Whether a file is, or claims to be, metadata of root; a file that is none counts as it."""
    try:
        data = draft.read_bytes() if draft.stat().st_size <= limits.MAX_METADATA_BYTES else b""
        return bool(Metadata.from_bytes(data).signed.type == "root")
    except (OSError, RepositoryError):
        return True


def read_draft(repository: Repository, draft: Path) -> Metadata[Root]:
    """A draft that follows on the repository's root.

    Raises:
        InputError: ``bad-draft``, ``no-such-file``.
    """
    try:
        data = draft.read_bytes() if draft.stat().st_size <= limits.MAX_METADATA_BYTES else b""
        document = Metadata[Root].from_bytes(data)
    except OSError:
        raise InputError("no-such-file", f"{draft}: no such draft") from None
    except RepositoryError:
        raise InputError("bad-draft", f"{draft} is not a draft of root.json") from None
    version = repository.metadata.root_version()
    if not isinstance(document.signed, Root) or document.signed.version != version + 1:
        raise InputError(
            "bad-draft", f"{draft} does not follow on root version {version}: propose it anew"
        )
    return document


# Parts. -------------------------------------------------------------------------------------


def _next(repository: Repository) -> Root:
    root = repository.metadata.root().signed
    root.version += 1
    root.expires = expires(repository.metadata.clock(), repository.metadata.expiry.root)
    return root


def _keys(root: Root, role: str) -> list[SSlibKey]:
    keys = [root.keys[keyid] for keyid in root.roles[role].keyids]
    return [key for key in keys if isinstance(key, SSlibKey)]


def _change(
    keys: KeyFolder,
    root: Root,
    role: str,
    add: int,
    public: Sequence[SSlibKey],
    remove: Iterable[str] | None,
    threshold: int | None,
) -> None:
    if role not in ROLES:
        raise InputError("unknown-role", f"{role[:40]!r} is not one of {', '.join(ROLES)}")
    old = list(root.roles[role].keyids)
    gone = old if remove is None else [_resolve(old, start) for start in remove]
    fresh = {key.keyid for key in public} - set(old)
    count = len(old) - len(set(gone)) + add + len(fresh)
    wanted = min(root.roles[role].threshold, count) if threshold is None else threshold
    if not 1 <= wanted <= count <= MAX_KEYS or add < 0:
        raise InputError(
            "bad-threshold",
            f"{role}: {wanted} of {count} keys; needed: 1 <= threshold <= keys <= {MAX_KEYS}",
        )
    for keyid in set(gone):
        root.revoke_key(keyid, role)
    for key in [*public, *(keys.generate(role) for _ in range(add))]:
        root.add_key(key, role)
    root.roles[role].threshold = wanted


def _resolve(keyids: Sequence[str], start: str) -> str:
    found = [keyid for keyid in keyids if start and keyid.startswith(start)]
    if len(found) != 1:
        raise InputError(
            "no-such-key", f"{start[:80]!r} is the beginning of {len(found)} key ids, expected one"
        )
    return found[0]


def _authorities(repository: Repository, root: Root) -> list[Root]:
    return [repository.metadata.root().signed, root]


def _sign(document: Metadata[Root], keys: KeyFolder, authorities: Sequence[Root]) -> Metadata[Root]:
    for signer in _signers(keys, authorities, "root"):
        document.sign(signer, append=True)
    return document


def _signers(keys: KeyFolder, authorities: Sequence[Root], role: str) -> list[CryptoSigner]:
    wanted = {key.keyid: key for root in authorities for key in _keys(root, role)}
    return keys.signers(wanted.values())


def _write_draft(draft: Path, document: Metadata[Root]) -> None:
    durable.write(draft, document.to_bytes(JSONSerializer()))


def _publish(repository: Repository, root: Root, signed: Metadata[Root] | None = None) -> int:
    store = repository.metadata
    old = store.root().signed
    # Checked, and the root signed, before anything is written.
    data = (
        store.sign(root, required=[old, root])
        if signed is None
        else signed.to_bytes(JSONSerializer(compact=True))
    )
    changed = {role for role in ROLES if old.roles[role] != root.roles[role]}
    if "targets" in changed:
        targets = store.targets().signed
        targets.version += 1
        store.write_targets(targets, root=root, beside=old)
    elif changed & {"snapshot", "timestamp"}:
        store.write_snapshot(root=root, beside=old)
    store.write_root_bytes(root.version, data)
    return root.version


__all__ = [
    "KeyInfo",
    "RoleInfo",
    "apply",
    "describe",
    "propose",
    "read_draft",
    "rotate",
    "sign_draft",
]
