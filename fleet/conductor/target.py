"""What a rollout moves devices to: a published bundle, or a release of the agent's own program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import sqlalchemy as sa

from contracts import board as boards
from contracts import program, release
from contracts.errors import InputError
from contracts.manifest import Baseline, Manifest
from contracts.messages import BundleRef, Reported
from fleet.rollout.spec import RolloutSpec
from fleet.store import bundles
from fleet.store.devices import Device

Archives = Mapping[str, frozenset[str]]
"""``{platform}-{python}`` of the signed archives, by the version of the agent in them."""

Signed = Callable[[], Archives]
"""Says which archives are signed now."""

NO_RELEASE: Final = "it does not say that it can replace its own program"
"""Why a device is left out that takes no archive."""

EXPLAINED: Final = 1000
"""Devices of which it is looked up why."""

_NAMED: Final = 6
"""Archives that a reason names."""


def nothing() -> Archives:
    """No release is signed."""
    return {}


class Target(msgspec.Struct, frozen=True):
    """What a rollout moves to.

    Attributes:
        ref: as desired documents name it.
        slot: where it goes.
        manifest: of a bundle; None: this is a release of the agent.
        archives: of a release: ``{platform}-{python}``.
    """

    ref: BundleRef
    slot: str
    manifest: Manifest | None = None
    archives: frozenset[str] = frozenset()

    @property
    def baseline(self) -> Baseline | None:
        """Of the bundle's answers."""
        return self.manifest.baseline if self.manifest else None

    def hardware(self, device: Device) -> str:
        """What of a device it has to fit: its board, or the archive that it takes."""
        if self.manifest is not None:
            return device.hardware
        return device.reported.platform.get(program.TAG, "") if device.reported else ""

    def misfit(self, hardware: str) -> str | None:
        """Why a device cannot have it, in one line; None when it can."""
        if self.manifest is not None:
            return misfit(self.manifest, hardware)
        if not hardware:
            return NO_RELEASE
        if hardware not in self.archives:
            there = ", ".join(sorted(self.archives)[:_NAMED]) or "none"
            return f"no archive of {self.ref} is signed for {hardware}; there are: {there}"
        return None

    def check(self, spec: RolloutSpec) -> None:
        """Whether a rollout to it can be begun.

        Raises:
            InputError: ``no-such-bundle``, ``bad-rollout``.
        """
        if self.manifest is not None:
            if self.slot == program.SLOT and self.ref.name == release.NAME:
                raise InputError("bad-rollout", f"a model cannot be called {release.NAME}")
            return
        if not self.archives:
            raise InputError(
                "no-such-bundle",
                f"no archive of agent {self.ref.version} is signed: "
                "`shoal fleet agent fetch --platform BOARD --python 3.x` makes one",
            )
        if spec.mode == "shadow" or spec.slot not in (None, program.SLOT):
            raise InputError(
                "bad-rollout",
                f"a release of the agent goes into the slot {program.SLOT}, as active",
            )


def find(connection: sa.Connection, spec: RolloutSpec, signed: Signed) -> Target:
    """The target of a rollout; of a release that was withdrawn, without archives.

    Raises:
        InputError: ``no-such-bundle``.
    """
    if spec.bundle == release.NAME:
        archives = signed().get(spec.version, frozenset())
        return Target(program.ref(spec.version), program.SLOT, archives=archives)
    published = bundles.find(connection, spec.bundle, spec.version)
    return Target(published.ref, spec.slot or published.manifest.slot, published.manifest)


@functools.lru_cache(maxsize=256)
def _profile(name: str) -> boards.Board | None:
    try:
        return boards.load(name)
    except InputError:
        return None


def misfit(manifest: Manifest, board: str) -> str | None:
    """Why a bundle does not fit a board, in one line; None when it does."""
    profile = _profile(board)
    if profile is None:
        return f"its board {board!r} has no profile"
    reasons = boards.misfits(manifest, profile)
    return "; ".join(str(reason) for reason in reasons) or None


def why_none(reported: Reported | None) -> str:
    """Why a device takes no archive of the agent, in its own words."""
    if reported is None:
        return "it has not said yet what it is"
    if fixed := reported.platform.get(program.FIXED):
        return f"it cannot replace its own program: {fixed}"
    return f"its agent {reported.agent_version} cannot replace itself"
