"""What pages do beyond reading: each change checked against the role, and in the audit log.

Methods block: pages call them on a thread. A button that is hidden protects nothing: the role is
checked here, with the token as it is worth now.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from contracts import board
from contracts.answers import Logged
from contracts.errors import InputError, ShoalError
from contracts.messages import BundleRef, DeviceLabels
from fleet import logtail
from fleet.controller import Controller
from fleet.dashboard.administration import Administration
from fleet.dashboard.uploads import Upload, Uploads
from fleet.identity.claims import Expected
from fleet.identity.registry import Invitation
from fleet.joining import invitations, offers, serials, table
from fleet.joining.invitations import Wanted
from fleet.joining.offers import Offer
from fleet.membership import labelling, leaving
from fleet.membership.labelling import Relabelling
from fleet.store import listing
from fleet.store.listing import Listing
from fleet.store.tokens import Token

MAX_OFFERS: Final = 200
"""Lines that one page makes at once; more come from `shoal fleet enroll --csv`."""

MAX_REVOKED: Final = 50
"""Devices that are revoked at once."""

MAX_HOURS: Final = 720.0


class Work(Administration):
    """Changes of one controller's fleet.

    Args:
        controller: whose.
    """

    def __init__(self, controller: Controller) -> None:
        super().__init__(controller)
        self.uploads = Uploads(controller.fleet.folder)

    # Devices that join --------------------------------------------------------------------

    def boards(self) -> list[str]:
        """Boards that join by a line."""
        return [name for name in board.names() if board.load(name).kind == "linux"]

    def offer(
        self,
        name: str,
        count: int,
        kind: str,
        labels: DeviceLabels | None,
        groups: list[str] | None,
        hours: float,
        token: Token,
        *,
        replace: bool = False,
    ) -> list[Offer]:
        """The line for one device, or for many with a number each: as `shoal fleet enroll`.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``bad-count``, ``bad-duration``, and what making the lines refuses.
        """
        with self._as(token, "admin", "device.token", name[:200]) as actor:
            if not 1 <= count <= MAX_OFFERS:
                raise InputError("bad-count", f"1 to {MAX_OFFERS} devices at once, not {count}")
            if not 0 < hours <= MAX_HOURS:
                raise InputError("bad-duration", f"a line lasts up to {MAX_HOURS:.0f} hours")
            wanted = [Wanted(name, kind, labels, groups)]
            if count > 1:
                wanted = table.numbered(name, count, kind, labels, groups)
            return offers.make(
                self._fleet, wanted, seconds=hours * 3600, replace=replace, actor=actor
            )

    def missing(self, boards: Sequence[str]) -> list[str]:
        """Commands without which there is nothing to install on a board."""
        return offers.missing(self._fleet, boards)

    def open_offers(self, token: Token) -> list[Invitation]:
        """Lines that may still be typed, without their secrets.

        Raises:
            RefusedError: ``forbidden``.
        """
        with self._as(token, "admin", "device.token-list", ""):
            now = self._controller.clock()
            return [one for one in invitations.every(self._fleet) if one.state(now) == "open"]

    def take_back(self, which: str, token: Token) -> int:
        """Takes a line back that was not typed yet, by its id.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-token``.
        """
        with self._as(token, "admin", "device.token-revoke", which[:200]) as actor:
            return invitations.revoke(self._fleet, which, actor)

    def expect(self, text: str, kind: str, token: Token) -> int:
        """Lists boards by serial number, from a table as text; how many.

        Raises:
            RefusedError: ``forbidden``, and what the list refuses.
            InputError: ``bad-table``, with its first faults in the message.
        """
        with self._as(token, "admin", "device.serials", "") as actor:
            try:
                boards = table.read(text.encode("utf-8", "replace"), kind, serials=True)
            except InputError as error:
                faults = error.info.detail.get("faults", [])
                raise InputError("bad-table", " ".join([str(error), *faults[:5]])) from None
            serials.add(self._fleet, boards, actor)
        return len(boards)

    def expected(self, token: Token) -> list[Expected]:
        """Boards that join by their serial number.

        Raises:
            RefusedError: ``forbidden``.
        """
        with self._as(token, "admin", "device.serial-list", ""):
            return serials.every(self._fleet)

    def serials_line(self, hours: float, token: Token) -> str:
        """The line for every board of the list, this once.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``bad-duration``, ``tls-needed``.
        """
        with self._as(token, "admin", "device.serials", "line") as actor:
            return serials.line(self._fleet, hours * 3600, actor)

    def forget_serial(self, serial: str, token: Token) -> None:
        """Takes a board off the list.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-serial``.
        """
        with self._as(token, "admin", "device.serial-remove", serial[:200]) as actor:
            serials.remove(self._fleet, serial, actor)

    # Logs ---------------------------------------------------------------------------------

    def logs(self, device: str, follow_s: float, token: Token) -> AsyncGenerator[Logged, None]:
        """A device's log; once, or as it grows.

        Raises:
            RefusedError: ``forbidden``.
            ShoalError: while it is read, what :func:`fleet.logtail.read` raises.
        """
        with self._as(token, "operator", logtail.ACTION, device[:200]) as actor:
            wanted = logtail.Wanted(follow_s=follow_s)
            return logtail.read(self._controller, device, wanted, actor)

    # Labels, groups, and who leaves ---------------------------------------------------------

    def matching(self, wanted: Listing) -> list[str]:
        """The names of all devices of a list.

        Raises:
            InputError: ``too-many``.
        """
        with self._controller.store.read() as connection:
            found = listing.names(connection, wanted, labelling.MAX_DEVICES + 1)
        if len(found) > labelling.MAX_DEVICES:
            raise InputError("too-many", f"over {labelling.MAX_DEVICES} devices: narrow the list")
        return found

    def relabel(self, names: Sequence[str], change: Relabelling, token: Token) -> int:
        """Changes labels and groups of devices; returns of how many.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-devices``, and what the change refuses.
        """
        controller, target = self._controller, f"{len(names)} devices"
        with self._as(token, "operator", "device.change", target) as actor:
            if not names:
                raise InputError("no-devices", "No device is chosen.")
            changed = labelling.relabel(
                self._fleet, controller.store, names, change, actor, controller.clock()
            )
        controller.wake()
        return changed

    def revoke(self, names: Sequence[str], token: Token) -> list[str]:
        """Revokes devices; returns what is left to do.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-devices``, ``too-many``, ``no-such-device``.
        """
        with self._as(token, "admin", "device.revoke", f"{len(names)} devices") as actor:
            if not names:
                raise InputError("no-devices", "No device is chosen.")
            if len(names) > MAX_REVOKED:
                raise InputError("too-many", f"at most {MAX_REVOKED} devices at once")
            done = [leaving.revoke(self._fleet, name, actor) for name in names]
        self._controller.wake()
        return sorted({one.todo for one in done if one.todo})

    # Bundles --------------------------------------------------------------------------------

    def receive(
        self, identifier: str, name: str, size: int, offset: int, data: bytes, token: Token
    ) -> Upload:
        """A part of a file, a bundle or its report; without an identifier, the first.

        Raises:
            RefusedError: ``forbidden``.
            InputError, UnavailableError: what :class:`~fleet.dashboard.uploads.Uploads` refuses.
        """
        with self._as(token, "admin", "bundle.publish", name[:200]):
            if identifier:
                return self.uploads.add(identifier, offset, data, token.id)
            begun = self.uploads.begin(name, size, token.id)
            try:
                return self.uploads.add(begun.id, offset, data, token.id)
            except ShoalError:
                self.uploads.drop(begun.id)
                raise

    def publish(self, upload: Upload, token: Token, report: str = "") -> BundleRef:
        """Checks and publishes what came whole, as `shoal fleet publish`; it is removed then.

        Args:
            upload: the bundle.
            token: whose.
            report: the upload of its build report, which came before; empty: there is none.

        Raises:
            RefusedError: ``forbidden``, ``version-taken``.
            ShoalError: what the bundle and the repository raise.
        """
        try:
            with self._as(token, "admin", "bundle.publish", upload.path.name) as actor:
                beside = self.uploads.find(report, token.id).path if report else None
                return self._fleet.publish(upload.path, beside, actor=actor)[0]
        finally:
            self.uploads.drop(upload.id)
            self.uploads.drop(report)

    def withdraw(self, name: str, version: str, token: Token) -> None:
        """Takes a bundle out of the signed list.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-bundle``, and what the repository raises.
        """
        with self._as(token, "admin", "bundle.withdraw", f"{name} {version}"[:200]) as actor:
            self._fleet.withdraw(name, version, actor=actor)


def pairs(text: str) -> DeviceLabels | None:
    """Labels as they are typed: ``site=lyon, floor=2``; None: nothing was typed.

    Raises:
        InputError: ``bad-label``.
    """
    found: DeviceLabels = {}
    for part in words(text):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise InputError("bad-label", f"label {part[:80]!r} is not key=value")
        found[key.strip()] = value.strip()
    return found or None


def words(text: str) -> list[str]:
    """What is typed with commas, or each on a line of its own."""
    return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
