"""What the registry of an authority holds: devices, their certificates, one-time tokens."""

from __future__ import annotations

from typing import Literal

import msgspec

from contracts.messages import DeviceLabels, Name


class Profile(msgspec.Struct, frozen=True):
    """What is decided about a device when it is enrolled."""

    device: Name
    board: Name
    labels: DeviceLabels = {}
    groups: list[Name] = []


class Issued(msgspec.Struct, frozen=True):
    """One certificate of a device; times are seconds since the epoch.

    Attributes:
        serial: of the certificate.
        device: its common name.
        pem: the certificate.
        issued, expires: its life.
        revoked: when it was; None: it counts.
        parent: serial of the certificate that it was renewed with; None: of an enrolment.
        used: when a device was first seen with it; None: not yet.
    """

    serial: int
    device: str
    pem: str
    issued: float
    expires: float
    revoked: float | None
    parent: int | None = None
    used: float | None = None


class Invitation(msgspec.Struct, frozen=True):
    """A one-time token, without its secret; times are seconds since the epoch.

    Attributes:
        id: the beginning of its hash.
        profile: whom it enrols.
        expires: until when it counts.
        used: when it was used; None: not yet.
        revoked: when it was taken back; None: it was not.
        replaces: what the device has so far is revoked with its use.
    """

    id: str
    profile: Profile
    expires: float
    used: float | None = None
    revoked: float | None = None
    replaces: bool = False

    def state(self, now: float) -> Literal["open", "used", "revoked", "expired"]:
        """Whether it counts still."""
        if self.used is not None:
            return "used"
        if self.revoked is not None:
            return "revoked"
        return "open" if self.expires > now else "expired"
