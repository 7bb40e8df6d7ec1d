"""Devices of an authority: enrolment, one-time tokens, renewal, and how they leave.

Over 400 lines: what is done to one device's identity from enrolment to its end.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from contracts.config import AgentConfig, TlsConfig
from contracts.errors import InputError, RefusedError
from contracts.messages import DeviceLabels
from contracts.topics import check_name
from fleet import durable
from fleet.identity import authority as ca
from fleet.identity.authority import Authority
from fleet.identity.enrolment import Enrolment, make_config, make_profile
from fleet.identity.own import Own
from fleet.identity.proof import proven, same_key
from fleet.identity.registry import (
    Invitation,
    Issued,
    Profile,
    Registry,
    Transaction,
    fingerprint,
)  # fmt: skip

TOKEN_SECONDS: Final = 24 * 3600.0
"""How long a one-time token lasts unless said otherwise."""

MAX_TOKEN_SECONDS: Final = 30 * 24 * 3600.0


class Identity:
    """The certificate authority of a fleet, in a folder.

    Use :meth:`create` or :meth:`open`. Files: ``ca.pem``, ``ca.key.pem``, ``crl.pem``,
    ``broker.pem``, ``broker.key.pem``, ``broker/`` (copies for it), ``controller.pem``,
    ``controller.key.pem``,
    ``identity.db``.

    Attributes:
        folder: of the authority.
        fleet: the fleet's name.
        own: what the broker and the controller hold.
        registry: what was issued.
    """

    def __init__(
        self, folder: Path, authority: Authority, fleet: str, clock: Callable[[], float]
    ) -> None:
        self.folder = folder
        self.fleet = fleet
        self._authority = authority
        self._clock = clock
        self.registry = Registry(folder / "identity.db")
        self.own = Own(folder, authority, self.registry, clock)

    @classmethod
    def create(
        cls,
        folder: Path,
        fleet: str,
        *,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        passphrase: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Identity:
        """Makes the authority, and certificates for the broker and the controller.

        Args:
            folder: made when missing, mode 0700.
            fleet: the fleet's name.
            hosts: names and addresses under which devices reach the broker.
            passphrase: protects the authority's key.
            clock: seconds since the epoch.

        Raises:
            InputError: ``already-an-authority``, ``bad-host``, ``bad-name``.
        """
        durable.make_folder(folder, 0o700)
        if (folder / "ca.pem").exists():
            raise InputError("already-an-authority", f"{folder} holds an authority already")
        authority = Authority.create(fleet, ca.from_epoch(clock()))
        for host in hosts:
            ca.general_name(host)
        # ca.pem is written last: a crash before it leaves a folder where `create` works again. A
        # key without it is moved away, not deleted: its certificate may be in a backup.
        leftover = folder / "ca.key.pem"
        if leftover.exists():
            leftover.rename(folder / f"ca.{secrets.token_hex(4)}.old.key.pem")
        identity = cls(folder, authority, fleet, clock)
        identity.own.renew_broker(hosts)
        identity.own.renew_controller()
        identity.own.write_revocations()
        authority.save(folder / "ca.pem", folder / "ca.key.pem", passphrase)
        identity.own.hand_out()
        return identity

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        passphrase: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Identity:
        """Opens an authority.

        Raises:
            InputError: ``no-authority``, ``key-locked``, ``key-exposed``, ``bad-key``.
        """
        authority = Authority.load(folder / "ca.pem", folder / "ca.key.pem", passphrase)
        fleet = ca.common_name(authority.certificate).removesuffix(" CA")
        return cls(folder, authority, check_name(fleet, "fleet"), clock)

    def certificates(self, device: str) -> list[Issued]:
        """What was issued to a device, oldest first."""
        with self.registry.transaction() as transaction:
            return transaction.certificates(device)

    def profile(self, device: str) -> Profile:
        """What was decided about a device.

        Raises:
            InputError: ``no-such-device``.
        """
        with self.registry.transaction() as transaction:
            return _enrolled(transaction, device)

    def describe(self, device: str, labels: DeviceLabels, groups: Sequence[str]) -> None:
        """Notes what operators say of a device; one that was never enrolled here is passed over."""
        self.describe_many({device: (labels, groups)})

    def describe_many(self, given: Mapping[str, tuple[DeviceLabels, Sequence[str]]]) -> None:
        """As :meth:`describe`, of many at once."""
        with self.registry.transaction() as transaction:
            for device, (labels, groups) in given.items():
                known = transaction.device(device)
                if known is not None:
                    transaction.describe(make_profile(device, known[0].board, labels, groups))

    def enroll(
        self,
        device: str,
        board: str,
        where: Enrolment,
        *,
        labels: DeviceLabels | None = None,
        groups: Sequence[str] = (),
        days: int = ca.DEVICE_DAYS,
        replace: bool = False,
    ) -> AgentConfig:
        """As :meth:`enrolling`, at once."""
        with self.enrolling(
            device, board, where, labels=labels, groups=groups, days=days, replace=replace
        ) as config:
            return config

    @contextmanager
    def enrolling(
        self,
        device: str,
        board: str,
        where: Enrolment,
        *,
        labels: DeviceLabels | None = None,
        groups: Sequence[str] = (),
        days: int = ca.DEVICE_DAYS,
        replace: bool = False,
        instead_of: str | None = None,
    ) -> Iterator[AgentConfig]:
        """Makes a key and a certificate for a device, and its configuration with both inside.

        The enrolment counts when the block ends, and not at all when it raises: put the
        configuration, which has the only copy of the key, where it is safe inside.

        Args:
            device: its id, the certificate's common name.
            board: a board profile's name.
            where: what all devices of the fleet share.
            labels: of the device, for selectors.
            groups: whose requests it answers.
            days: the certificate's validity.
            replace: enrol a known device again: what it has is revoked.
            instead_of: the name that the device has so far: what it has under that is revoked,
                and the name is free. The caller writes the revocation list.

        Raises:
            InputError: ``bad-name``, ``reserved-name``, ``already-enrolled``,
                ``no-such-device`` (`instead_of`).
        """
        profile = make_profile(device, board, labels or {}, groups)
        key = ca.new_key() if where.mutual_tls else None
        with self.registry.transaction() as transaction:
            if instead_of is not None:
                _enrolled(transaction, instead_of)
                transaction.revoke(instead_of, self._clock())
                transaction.remove_device(instead_of)
            self._make_room(transaction, device, replace=replace)
            transaction.put_device(profile)
            tls = None
            if key is not None:
                pem = self.issue(transaction, device, key.public_key(), days).pem
                tls = TlsConfig(ca=self.own.ca_pem, certificate=pem, key=ca.key_pem(key).decode())
            yield make_config(self.fleet, profile, where, tls)
        if replace:
            self.own.write_revocations()

    def _make_room(self, transaction: Transaction, device: str, *, replace: bool) -> None:
        if not replace:
            _check_new(transaction, device)
        else:
            transaction.revoke(device, self._clock())

    def issue(
        self,
        transaction: Transaction,
        device: str,
        key: CertificatePublicKeyTypes,
        days: int,
        parent: int | None = None,
    ) -> Issued:
        """A certificate for the client `device`, stored."""
        now = self._clock()
        certificate = self._authority.issue_client(device, key, ca.from_epoch(now), days)
        issued = Issued(
            serial=certificate.serial_number,
            device=device,
            pem=ca.certificate_pem(certificate).decode(),
            issued=now,
            expires=certificate.not_valid_after_utc.timestamp(),
            revoked=None,
            parent=parent,
        )
        transaction.put_certificate(issued)
        return issued

    def new_token(
        self,
        device: str,
        board: str,
        *,
        labels: DeviceLabels | None = None,
        groups: Sequence[str] = (),
        seconds: float = TOKEN_SECONDS,
    ) -> str:
        """A token that enrols one device once. Only its hash is stored.

        Raises:
            InputError: ``bad-name``, ``reserved-name``, ``bad-duration``.
        """
        profile = make_profile(device, board, labels or {}, groups)
        return self.invite([profile], seconds=seconds, replace=None)[0]

    def invite(
        self, profiles: Sequence[Profile], *, seconds: float, replace: bool | None = False
    ) -> list[str]:
        """Tokens for devices: one for each, or none at all.

        Earlier tokens of the same devices count no more, unless `replace` is None.

        Args:
            profiles: checked, as :func:`~fleet.identity.enrolment.make_profile` makes them.
            seconds: how long the tokens count.
            replace: enrol known devices again: what they have is revoked when the token is
                used. None: whether a device is known is not looked at before that.

        Raises:
            InputError: ``bad-duration``, ``already-enrolled``.
        """
        if not 0 < seconds <= MAX_TOKEN_SECONDS:
            raise InputError(
                "bad-duration", f"a token lasts up to {MAX_TOKEN_SECONDS:.0f} s, not {seconds}"
            )
        now, made = self._clock(), []
        with self.registry.transaction() as transaction:
            transaction.forget_tokens(now - MAX_TOKEN_SECONDS)
            names = {profile.device for profile in profiles}
            if replace is not None:
                mine = [one.id for one in transaction.tokens() if one.profile.device in names]
                transaction.revoke_tokens(mine, now)
            for profile in profiles:
                if replace is False:
                    _check_new(transaction, profile.device)
                token = secrets.token_urlsafe(32)
                transaction.put_token(
                    _digest(token), profile, now + seconds, replaces=bool(replace)
                )
                made.append(token)
        return made

    def token_instead_of(self, device: str, name: str, seconds: float = TOKEN_SECONDS) -> str:
        """A token that enrols a device under another name; what it has is revoked at once.

        The caller writes the revocation list.

        Raises:
            InputError: ``no-such-device``, ``bad-name``, ``reserved-name``, ``already-enrolled``.
        """
        token, now = secrets.token_urlsafe(32), self._clock()
        with self.registry.transaction() as transaction:
            mine = _enrolled(transaction, device)
            profile = make_profile(name, mine.board, mine.labels, mine.groups)
            self._make_room(transaction, name, replace=False)
            transaction.revoke(device, now)
            transaction.remove_device(device)
            transaction.put_token(_digest(token), profile, now + seconds)
        return token

    def invited(self, token: str) -> Invitation:
        """What a token is for; it may have been used already.

        Raises:
            RefusedError: ``bad-token``; unknown, revoked, or out of date.
        """
        with self.registry.transaction() as transaction:
            found = transaction.token(_digest(token))
        if found is None or found.state(self._clock()) == "revoked" or self._late(found):
            raise self._bad_token(found)
        return found

    def _late(self, found: Invitation) -> bool:
        return found.expires <= self._clock()

    def _bad_token(self, found: Invitation | None) -> RefusedError:
        """Why a token enrols nobody: told to who has it, which nobody can guess."""
        why = "is none of this fleet"
        if found is not None:
            why = {"used": "was used by another board", "revoked": "was taken back"}.get(
                found.state(self._clock()), "has expired"
            )
        return RefusedError(
            "bad-token", f"the token {why}: ask for a new one (`shoal fleet enroll`)"
        )

    def redeem(self, token: str, request: bytes, where: Enrolment) -> AgentConfig:
        """Enrols the device of a token with the key of its signing request.

        A token counts for one key, also when two requests race for it; a request that is
        refused for another reason does not use it up. Who asks again with the same token and
        key, because the answer was lost, gets the same certificate.

        Raises:
            RefusedError: ``bad-token``; unknown, used, revoked or out of date.
            InputError: ``bad-request``, ``already-enrolled``.
        """
        with self.registry.transaction() as transaction:
            digest, now = _digest(token), self._clock()
            taken = transaction.take_token(digest, now)
            found = taken or transaction.token(digest)
            if found is None or (taken is None and (found.used is None or self._late(found))):
                raise self._bad_token(found)
            profile = found.profile
            key = ca.parse_request(request, profile.device).public_key()
            if taken is None:
                issued = self._issued_before(transaction, profile.device, key)
                if issued is None:
                    raise self._bad_token(found)
            else:
                self._make_room(transaction, profile.device, replace=found.replaces)
                transaction.put_device(profile)
                issued = self.issue(transaction, profile.device, key, ca.DEVICE_DAYS)
        if found.replaces:  # also when it is asked again: it may have broken off before this
            self.own.write_revocations()
        tls = TlsConfig(ca=self.own.ca_pem, certificate=issued.pem, key="device.key.pem")
        return make_config(self.fleet, profile, where, tls)

    def _issued_before(
        self, transaction: Transaction, device: str, key: CertificatePublicKeyTypes
    ) -> Issued | None:
        """The certificate that an enrolled device has for `key`, if it counts still."""
        entry = transaction.device(device)
        if entry is None or entry[1] is not None:
            return None
        now = self._clock()
        mine = [one for one in transaction.certificates(device) if same_key(one.pem, key)]
        return next((one for one in mine if one.revoked is None and one.expires > now), None)

    def renew(self, certificate: bytes, request: bytes, signature: str) -> str:
        """A device's next certificate, for one that holds the current one.

        A certificate is superseded once a newer one of the device was seen in use: who asks
        with it then is a copy of the device, or has lost what it was given since.

        Args:
            certificate: PEM of the current certificate: issued here, valid, not revoked.
            request: PEM signing request with the same key or a new one.
            signature: base64; by the current key over
                :func:`contracts.renewal.signed_bytes` of the request: proof that the device
                asks. A replayed request gives the same certificate.

        Returns:
            PEM of the new certificate.

        Raises:
            RefusedError: ``bad-certificate``; not ours, expired, revoked, or not proven.
                ``superseded``; its detail has `device` and `used`, when the newer was seen.
            InputError: ``bad-certificate``, ``bad-request``.
        """
        current = ca.parse_certificate(certificate)
        now = self._clock()
        device = ca.common_name(current)
        refused = RefusedError(
            "bad-certificate",
            "the certificate is not one that can be renewed: enrol the device again",
        )
        if not self._authority.issued(current) or not proven(current, request, signature):
            raise refused
        wanted = ca.parse_request(request, device).public_key()
        with self.registry.transaction() as transaction:
            mine = transaction.certificates(device)
            known = next((c for c in mine if c.serial == current.serial_number), None)
            entry = transaction.device(device)
            if known is None or known.revoked is not None or known.expires <= now:
                raise refused
            if entry is None or entry[1] is not None:
                raise refused
            newer = [c for c in mine[mine.index(known) + 1 :] if c.revoked is None]
            for one in newer:
                if one.parent == known.serial and same_key(one.pem, wanted):
                    return one.pem
            _check_current(device, newer)
            transaction.note_used(device, fingerprint(known.pem), now)
            days = round((known.expires - known.issued) / 86400)
            return self.issue(transaction, device, wanted, max(1, days), known.serial).pem

    def revoke(self, device: str, *, listed: bool = True) -> int:
        """Revokes all certificates of a device.

        Args:
            device: its name.
            listed: write the revocation list; False: the caller does, with
                :meth:`fleet.identity.own.Own.write_revocations`.

        Returns:
            How many certificates were revoked.

        Raises:
            InputError: ``no-such-device``.
        """
        with self.registry.transaction() as transaction:
            _enrolled(transaction, device)
            count = transaction.revoke(device, self._clock())
        if listed:
            self.own.write_revocations()
        return count

    def retire(self, device: str) -> int:
        """Revokes all certificates of a device and frees its name; the caller writes the list.

        Returns:
            How many certificates were revoked.

        Raises:
            InputError: ``no-such-device``.
        """
        with self.registry.transaction() as transaction:
            _enrolled(transaction, device)
            count = transaction.revoke(device, self._clock())
            transaction.remove_device(device)
        return count


# Parts. -------------------------------------------------------------------------------------


def _enrolled(transaction: Transaction, device: str) -> Profile:
    found = transaction.device(check_name(device, "device"))
    if found is None:
        raise InputError("no-such-device", f"{device} was never enrolled")
    return found[0]


def _check_new(transaction: Transaction, device: str) -> None:
    known = transaction.device(device)
    if known is not None and known[1] is None:
        raise InputError(
            "already-enrolled", f"{device} is enrolled: revoke it first, or replace what it has"
        )


def _check_current(device: str, newer: Sequence[Issued]) -> None:
    used = [one.used for one in newer if one.used is not None]
    if used:
        raise RefusedError(
            "superseded",
            "a newer certificate of this device is in use: this is a copy of it, or it has lost "
            "what it was given; enrol it again",
            device=device,
            used=max(used),
        )


def _digest(token: str) -> str:
    # A token has 256 random bits: a plain hash is enough, nothing can be guessed.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
