"""Which certificates devices were seen with: a newer one in use replaces those before it.

Two that were renewed with the same certificate and are both in use are of two devices: one of
them renewed a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fleet.identity.registry import Registry
from fleet.store import Store, clones


def note(registry: Path, store: Store, seen: Sequence[tuple[str, str]], now: float) -> list[str]:
    """Records certificates in use.

    Args:
        registry: the file of the authority's database.
        store: the controller's.
        seen: devices, each with the SHA-256 of the certificate of its connection.
        now: seconds since the epoch.

    Returns:
        Devices whose identity another has too, where that was not known.
    """
    doubled = []
    # One transaction for all: each is written to the disk, and a whole fleet may come at once.
    with Registry(registry).transaction() as transaction:
        for device, sha256 in seen:
            mine = transaction.note_used(device, sha256, now)
            if mine is None or mine.parent is None:
                continue
            twins = [
                one
                for one in transaction.certificates(device)
                if one.parent == mine.parent and one.used is not None and one.revoked is None
            ]
            if len(twins) > 1:
                doubled.append(device)
    if not doubled:
        return []
    with store.write() as connection:
        return [name for name in doubled if clones.note(connection, name, "certificates", now)]
