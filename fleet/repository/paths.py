"""The paths of a repository: what is where, and which paths may be read by others.

::

    metadata/timestamp.json  metadata/{N}.root.json  metadata/{N}.snapshot.json  ...targets.json
    metadata/{N}.{delegated role}.json
    targets/bundles/{name}/{version}/{sha256}.manifest.json
    targets/agent/{version}/{sha256}.{platform}-cp{NN}.zip
    targets/agent/{version}/{sha256}.{native code}-mpy{NN}.json
    blobs/{sha256}
    deltas/{from sha256}-{to sha256}.zst
"""

from __future__ import annotations

import re
from typing import Final

from contracts.errors import InputError
from contracts.messages import BundleRef

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_VERSION = r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}"
_ROLE = r"[a-z0-9][a-z0-9-]{0,31}"
_SHA256 = r"[0-9a-f]{64}"
_TOP: Final = ("root", "targets", "snapshot", "timestamp")
_PUBLIC: Final = re.compile(
    rf"metadata/timestamp\.json"
    rf"|metadata/[1-9][0-9]{{0,9}}\.{_ROLE}\.json"
    rf"|targets/bundles/{_NAME}/{_VERSION}/{_SHA256}\.manifest\.json"
    rf"|targets/agent/{_VERSION}/{_SHA256}\.[a-z0-9-]{{3,20}}-cp3[0-9]{{1,2}}\.zip"
    rf"|targets/agent/{_VERSION}/{_SHA256}\.[a-z0-9]{{2,16}}-mpy[0-9]{{2}}\.json"
    rf"|blobs/{_SHA256}"
    rf"|deltas/{_SHA256}-{_SHA256}\.zst",
    re.ASCII,
)


def check_role(name: str) -> str:
    """Returns `name` when a delegated role may have it.

    Raises:
        InputError: ``bad-role``.
    """
    if name in _TOP or not re.fullmatch(_ROLE, name, re.ASCII):
        raise InputError(
            "bad-role",
            f"{name[:40]!r} is no name of a delegated role: up to 32 of a-z, 0-9 and -, "
            f"and none of {', '.join(_TOP)}",
        )
    return name


def check(path: str) -> str:
    """Returns `path` when it is a path of a repository (it need not exist).

    Raises:
        InputError: ``no-such-path``; it is none, so it names nothing outside either.
    """
    if not _PUBLIC.fullmatch(path):
        raise InputError("no-such-path", f"{path[:200]!r} is not a path of the repository")
    return path


def metadata(role: str, version: int | None = None) -> str:
    """Where the metadata of a role is; `version` None for the timestamp alone."""
    return f"metadata/{role}.json" if version is None else f"metadata/{version}.{role}.json"


def target(name: str, version: str) -> str:
    """The name of a bundle's manifest as a TUF target."""
    return f"bundles/{name}/{version}/manifest.json"


def manifest(ref: BundleRef) -> str:
    """Where a bundle's manifest is."""
    return f"targets/bundles/{ref.name}/{ref.version}/{ref.manifest_sha256}.manifest.json"


def agent_release(target: str, sha256: str) -> str:
    """Where a release archive of the agent is, by the name of its target."""
    folder, _, name = target.rpartition("/")
    return f"targets/{folder}/{sha256}.{name}"


def blob(sha256: str) -> str:
    """Where a file of a bundle is."""
    return f"blobs/{sha256}"


def delta(old_sha256: str, new_sha256: str) -> str:
    """Where the patch from one file to another is."""
    return f"deltas/{old_sha256}-{new_sha256}.zst"
