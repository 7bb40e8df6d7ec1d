"""The search for a target through delegated roles: TUF specification 1.0.33, section 5.6.7.

The targets role may hand a part of its names to other roles, and those to others. The search
goes depth first in the order in which roles are listed. A role is asked only for a name that
every role above it handed down, so that what a role signs outside its patterns is never seen.
Both the number of roles and their depth are bounded: whoever may sign cannot keep a device busy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from contracts.errors import RefusedError

if TYPE_CHECKING:
    from tuf.api.metadata import Key, TargetFile, Targets

MAX_ROLES: Final = 32
"""Delegated roles that the search for one target asks."""

MAX_DEPTH: Final = 8
"""Delegations between the targets role and the last role that is asked."""

_MAX_FILE_NAME: Final = 200

Load = Callable[[str, str], "Targets"]
"""Loads a role as its delegator has it: ``load(role, delegator)``; both are checked."""


def find(name: str, load: Load) -> TargetFile | None:
    """The target of that name from the most trusted role that signs it; None: no role does.

    Raises:
        RefusedError: ``too-many-roles``, or what `load` raises.
    """
    waiting = [("targets", "root", 0)]
    asked: set[str] = set()
    while waiting:
        role, delegator, depth = waiting.pop()
        if role in asked:
            continue
        if len(asked) > MAX_ROLES or depth > MAX_DEPTH:
            raise RefusedError(
                "too-many-roles",
                f"{name[:200]} was not found within {MAX_ROLES} delegated roles, "
                f"{MAX_DEPTH} deep: the fleet must delegate it more directly",
            )
        targets = load(role, delegator)
        found = targets.targets.get(name)
        if found is not None:
            return found
        asked.add(role)
        if targets.delegations is None:
            continue
        children = []
        for child, terminating in targets.delegations.get_roles_for_target(name):
            children.append((child, role, depth + 1))
            if terminating:
                waiting.clear()
                break
            if len(children) > MAX_ROLES:
                break  # one more than are asked: the search then says so
        waiting.extend(reversed(children))
    return None


def stored_as(role: str) -> str:
    """The name, without ``.json``, of a role in a path and on the disk; a role's name is hostile.

    Raises:
        RefusedError: ``bad-metadata``; it is too long for a file.
    """
    name = quote(role, safe="")
    if len(name) > _MAX_FILE_NAME:
        raise RefusedError("bad-metadata", f"a delegated role has a name of {len(role)} characters")
    return name


def check_distinct_keys(role: str, keyids: Collection[str], keys: Mapping[str, Key]) -> None:
    """Refuses a role that lists one key under two ids: its holder would count twice.

    Raises:
        RefusedError: ``wrong-root``.
    """
    listed = [keys.get(keyid) for keyid in keyids]
    public = [str(key.keyval.get("public")) for key in listed if key is not None]
    if len(set(public)) != len(public):
        raise RefusedError("wrong-root", f"a key of {role[:100]} is listed twice")
