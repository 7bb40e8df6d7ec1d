"""What a signature would change, in words: for whoever is asked to sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tuf.api.metadata import DelegatedRole, Root, TargetFile, Targets

from fleet.repository import listing
from fleet.repository.keys import ROLES
from fleet.repository.metadata import delegated_roles

_MOST_LINES: Final = 200


def between(old: Root | Targets | None, new: Root | Targets) -> list[str]:
    """One sentence a change, for people; `old` None: everything is new."""
    lines = [
        f"version {old.version if old else 'none'} -> {new.version}",
        f"expires {old.expires.date() if old else 'never signed'} -> {new.expires.date()}",
    ]
    if isinstance(new, Root):
        lines += _roots(old if isinstance(old, Root) else None, new)
    else:
        before = old if isinstance(old, Targets) else Targets()
        lines += _targets(before.targets, new.targets)
        lines += _withdrawn(listing.withdrawn(before), listing.withdrawn(new))
        lines += _delegations(before, new)
    if len(lines) == 2:
        lines.append("nothing else changes")
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more changes"]
    return lines


def _named(target: TargetFile) -> str:
    ref = listing.ref_of(target)
    return f"bundle {ref.name} {ref.version}" if ref else f"target {target.path[:200]}"


def _digest(target: TargetFile) -> str:
    return next(iter(sorted(target.hashes.values(), key=len)), "none")[:12]


def _targets(old: Mapping[str, TargetFile], new: Mapping[str, TargetFile]) -> list[str]:
    lines = [
        f"appears: {_named(new[name])}, release {listing.release_of(new[name])}, "
        f"manifest {_digest(new[name])}"
        for name in sorted(set(new) - set(old))
    ]
    lines += [f"disappears: {_named(old[name])}" for name in sorted(set(old) - set(new))]
    for name in sorted(set(old) & set(new)):
        if old[name].hashes != new[name].hashes or old[name].length != new[name].length:
            lines.append(
                f"CHANGES ITS BYTES: {_named(new[name])}, manifest {_digest(old[name])} -> "
                f"{_digest(new[name])}"
            )
        elif listing.release_of(old[name]) != listing.release_of(new[name]):
            lines.append(
                f"changes its release: {_named(new[name])}, {listing.release_of(old[name])} -> "
                f"{listing.release_of(new[name])}"
            )
    return lines


def _withdrawn(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    lines = [f"withdrawn for good: {key[:100]}" for key in sorted(set(new) - set(old))]
    return lines + [f"no longer withdrawn: {key[:100]}" for key in sorted(set(old) - set(new))]


def _delegations(old: Targets, new: Targets) -> list[str]:
    before = {role.name: role for role in delegated_roles(old)}
    after = {role.name: role for role in delegated_roles(new)}
    lines = [f"may sign from now on: {_described(after[n])}" for n in after if n not in before]
    lines += [f"may sign no more: {_described(before[n])}" for n in before if n not in after]
    lines += [
        f"role {n} changes: {_described(before[n])} -> {_described(after[n])}"
        for n in after
        if n in before and _described(before[n]) != _described(after[n])
    ]
    if [n for n in before if n in after] != [n for n in after if n in before]:
        lines.append(f"roles are asked in another order: {', '.join(after)}")
    return lines


def _described(role: DelegatedRole) -> str:
    patterns = ", ".join(path.removesuffix("/*/manifest.json") for path in role.paths or [])
    keys = ", ".join(sorted(keyid[:16] for keyid in role.keyids))
    return f"{role.name[:40]} for {patterns or 'hashes of names'}, {role.threshold} of keys {keys}"


def _roots(old: Root | None, new: Root) -> list[str]:
    lines = []
    for name in ROLES:
        before = set(old.roles[name].keyids) if old else set()
        after = new.roles[name]
        lines += [
            f"{name}: key {keyid[:16]} is added" for keyid in sorted(set(after.keyids) - before)
        ]
        lines += [f"{name}: key {keyid[:16]} goes" for keyid in sorted(before - set(after.keyids))]
        threshold = old.roles[name].threshold if old else 0
        if threshold != after.threshold:
            lines.append(
                f"{name}: {threshold or 'none'} -> {after.threshold} of {len(after.keyids)} keys "
                "must sign"
            )
    return lines
