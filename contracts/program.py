"""The agent's program as something that a rollout moves: its slot, and a release as a reference.

A release is wanted in the slot ``agent`` like a bundle in another. Its `manifest_sha256` is of
its target's folder, ``agent/{version}``: every platform has an archive of its own, and the signed
list says which bytes that is. A version is signed once, so its name is enough.
"""

from __future__ import annotations

from typing import Final

from contracts.bundle import sha256_of
from contracts.messages import BundleRef
from contracts.release import NAME

SLOT: Final = "agent"

TAG: Final = "release"
"""Key of `Reported.platform`: ``{platform}-{python}``, of the archives that the device takes."""

FIXED: Final = "release_fixed"
"""Key of `Reported.platform`: why the device cannot replace its own program."""


def ref(version: str) -> BundleRef:
    """A release of the agent, for every platform."""
    return BundleRef(NAME, version, sha256_of(f"agent/{version}".encode()))


def is_program(slot: str, bundle: BundleRef) -> bool:
    """Whether this is a release of the agent, and no model."""
    return slot == SLOT and bundle.name == NAME and bundle == ref(bundle.version)
