"""Enrolment of devices: certificates, one-time tokens, renewal, revocation."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from contracts import codec
from contracts.config import AgentConfig, MqttConfig, TlsConfig
from contracts.errors import InputError, RefusedError
from contracts.messages import DeviceLabels
from contracts.renewal import signed_bytes
from contracts.topics import check_name
from fleet import durable
from fleet.broker.acl import CONTROLLER, acl_file
from fleet.broker.mosquitto import Credentials
from fleet.identity import authority as ca
from fleet.identity.authority import Authority
from fleet.identity.registry import Issued, Profile, Registry, Transaction

TOKEN_SECONDS: Final = 24 * 3600.0
"""How long a one-time token lasts unless said otherwise."""

MAX_TOKEN_SECONDS: Final = 30 * 24 * 3600.0
_RESERVED: Final = frozenset({CONTROLLER, "shoal-broker"})


class Enrolment(msgspec.Struct, frozen=True):
    """Where devices find the fleet; what every ``agent.yaml`` of the fleet shares.

    Attributes:
        mqtt: the broker; its `tls` is filled in when `mutual_tls`.
        trust_root: the text of the repository's ``root.json``.
        repository_url: base URL of the repository; None: blocks over MQTT.
        renewal_url: where a device asks for its next certificate; None: it cannot.
        mutual_tls: devices get certificates. False only for brokers on loopback.
    """

    mqtt: MqttConfig
    trust_root: str
    repository_url: str | None = None
    renewal_url: str | None = None
    mutual_tls: bool = True


class Access(msgspec.Struct, frozen=True):
    """Who may do what on the broker.

    Attributes:
        groups: of each device that is not revoked.
        revoked: devices that are, by name.
    """

    groups: dict[str, list[str]]
    revoked: list[str]

    @classmethod
    def of(cls, transaction: Transaction) -> Access:
        """As the registry has it now."""
        groups, revoked = {}, []
        for profile, since in transaction.devices():
            if since is None:
                groups[profile.device] = profile.groups
            else:
                revoked.append(profile.device)
        return cls(groups, revoked)


class Identity:
    """The certificate authority of a fleet, in a folder.

    Use :meth:`create` or :meth:`open`. Files: ``ca.pem``, ``ca.key.pem``, ``crl.pem``,
    ``broker.pem``, ``broker.key.pem``, ``controller.pem``, ``controller.key.pem``,
    ``identity.db``.
    """

    def __init__(
        self, folder: Path, authority: Authority, fleet: str, clock: Callable[[], float]
    ) -> None:
        self.folder = folder
        self.fleet = fleet
        self._authority = authority
        self._clock = clock
        self._registry = Registry(folder / "identity.db")

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
        now = ca.from_epoch(clock())
        authority = Authority.create(fleet, now)
        for host in hosts:
            ca.general_name(host)
        # ca.pem is written last: a crash before it leaves a folder where `create` works again.
        for leftover in ("ca.key.pem", "broker.key.pem", "controller.key.pem"):
            (folder / leftover).unlink(missing_ok=True)
        identity = cls(folder, authority, fleet, clock)
        identity.renew_broker(hosts)
        identity.renew_controller()
        identity.write_revocations()
        authority.save(folder / "ca.pem", folder / "ca.key.pem", passphrase)
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

    # The broker's and the controller's side. ----------------------------------------------

    @property
    def ca_pem(self) -> str:
        """The authority's certificate."""
        return ca.certificate_pem(self._authority.certificate).decode()

    @property
    def broker_credentials(self) -> Credentials:
        """The broker's files, for :func:`fleet.broker.write_configuration`."""
        return Credentials(
            ca=self.folder / "ca.pem",
            certificate=self.folder / "broker.pem",
            key=self.folder / "broker.key.pem",
            crl=self.folder / "crl.pem",
        )

    @property
    def controller_tls(self) -> TlsConfig:
        """The controller's own client certificate, as paths."""
        return TlsConfig(
            ca=str((self.folder / "ca.pem").resolve()),
            certificate=str((self.folder / "controller.pem").resolve()),
            key=str((self.folder / "controller.key.pem").resolve()),
        )

    def renew_broker(self, hosts: Sequence[str]) -> None:
        """Writes a new key and certificate for the broker."""
        key = ca.new_key()
        certificate = self._authority.issue_server(
            hosts, key.public_key(), ca.from_epoch(self._clock())
        )
        self._write_pair("broker", key, certificate)

    def renew_controller(self) -> None:
        """Writes a new key and certificate for the controller."""
        key = ca.new_key()
        now = ca.from_epoch(self._clock())
        certificate = self._authority.issue_client(
            CONTROLLER, key.public_key(), now, ca.SERVER_DAYS
        )
        self._write_pair("controller", key, certificate)

    def maintain(self) -> list[str]:
        """Renews what the broker and the controller hold, while it is valid; call it daily.

        Returns:
            What was renewed, of ``crl``, ``broker`` and ``controller``. A broker reads its
            files when it starts and reloads (:mod:`fleet.identity.applied`), a controller when
            it connects.
        """
        now = ca.from_epoch(self._clock())
        renewed = []
        crl = x509.load_pem_x509_crl((self.folder / "crl.pem").read_bytes())
        broker = ca.parse_certificate((self.folder / "broker.pem").read_bytes())
        half = timedelta(days=ca.CRL_DAYS / 2)
        # Both, in this order: the certificate that a broker serves then tells which list it
        # has. The one that it read may be older than the one in the file, which a revocation
        # may have written since: hence also by the age of the certificate.
        if (
            crl.next_update_utc is None
            or crl.next_update_utc - now < half
            or now - broker.not_valid_before_utc > half
            or _old(broker, now)
        ):
            self.write_revocations()
            self.renew_broker(ca.hosts_of(broker))
            renewed += ["crl", "broker"]
        if _old(ca.parse_certificate((self.folder / "controller.pem").read_bytes()), now):
            self.renew_controller()
            renewed.append("controller")
        return renewed

    def _write_pair(
        self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        durable.write(self.folder / f"{name}.key.pem", ca.key_pem(key), mode=0o600)
        durable.write(self.folder / f"{name}.pem", ca.certificate_pem(certificate))

    @contextmanager
    def access(self) -> Iterator[Access]:
        """What the broker's ACL is made of, which nobody changes until the block ends.

        Write the ACL inside: of two that write it, an enrolment and a revocation, the later
        one has then seen what the earlier one did.
        """
        with self._registry.transaction() as transaction:
            yield Access.of(transaction)

    def groups(self) -> dict[str, list[str]]:
        """The groups of each device that is not revoked."""
        with self.access() as access:
            return access.groups

    def revoked_devices(self) -> list[str]:
        """Devices that are revoked, by name."""
        with self.access() as access:
            return access.revoked

    def acl(self) -> str:
        """The broker's ACL: also denies what a revoked device's open connection may do."""
        with self.access() as access:
            return acl_file(self.fleet, access.groups, revoked=access.revoked)

    def write_revocations(self) -> Path:
        """Writes ``crl.pem`` from what is revoked; call it at each start, it renews the list."""
        now = self._clock()
        with self._registry.transaction() as transaction:
            revoked = transaction.revoked(now)
            data = self._authority.revocation_list(
                [(serial, ca.from_epoch(at)) for serial, at in revoked], ca.from_epoch(now)
            )
            # Inside the transaction: two revocations must not write their lists out of order.
            durable.write(self.folder / "crl.pem", data)
        return self.folder / "crl.pem"

    # Devices. ---------------------------------------------------------------------------

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

        Raises:
            InputError: ``bad-name``, ``reserved-name``, ``already-enrolled``.
        """
        profile = _profile(device, board, labels or {}, groups)
        key = ca.new_key() if where.mutual_tls else None
        public = None if key is None else key.public_key()
        with self._admitting(profile, public, days, replace=replace) as pem:
            tls = None
            if key is not None:
                tls = TlsConfig(ca=self.ca_pem, certificate=pem, key=ca.key_pem(key).decode())
            yield _config(self.fleet, profile, where, tls)

    def sign_csr(
        self,
        device: str,
        board: str,
        request: bytes,
        where: Enrolment,
        *,
        labels: DeviceLabels | None = None,
        groups: Sequence[str] = (),
        days: int = ca.DEVICE_DAYS,
        replace: bool = False,
    ) -> AgentConfig:
        """As :meth:`enroll`, for a key that the device made: the key never leaves it.

        Args:
            device: its id.
            board: a board profile's name.
            request: the PEM certificate signing request.
            where: what all devices of the fleet share.
            labels: of the device, for selectors.
            groups: whose requests it answers.
            days: the certificate's validity.
            replace: enrol a known device again: what it has is revoked.

        Returns:
            A configuration whose ``mqtt.tls.key`` is ``device.key.pem``, a file beside it.

        Raises:
            InputError: as :meth:`enroll`, and ``bad-request``.
        """
        profile = _profile(device, board, labels or {}, groups)
        key = ca.parse_request(request, device).public_key()
        with self._admitting(profile, key, days, replace=replace) as pem:
            tls = TlsConfig(ca=self.ca_pem, certificate=pem, key="device.key.pem")
            return _config(self.fleet, profile, where, tls)

    @contextmanager
    def _admitting(
        self,
        profile: Profile,
        key: CertificatePublicKeyTypes | None,
        days: int,
        *,
        replace: bool,
    ) -> Iterator[str]:
        with self._registry.transaction() as transaction:
            self._make_room(transaction, profile.device, replace=replace)
            transaction.put_device(profile)
            yield "" if key is None else self._issue(transaction, profile.device, key, days).pem
        if replace:
            self.write_revocations()

    def _make_room(self, transaction: Transaction, device: str, *, replace: bool) -> None:
        known = transaction.device(device)
        if known is not None and known[1] is None:
            if not replace:
                raise InputError(
                    "already-enrolled",
                    f"{device} is enrolled: revoke it first, or replace what it has",
                )
            transaction.revoke(device, self._clock())

    def _issue(
        self,
        transaction: Transaction,
        device: str,
        key: CertificatePublicKeyTypes,
        days: int,
    ) -> Issued:
        now = self._clock()
        certificate = self._authority.issue_client(device, key, ca.from_epoch(now), days)
        issued = Issued(
            serial=certificate.serial_number,
            device=device,
            pem=ca.certificate_pem(certificate).decode(),
            issued=now,
            expires=certificate.not_valid_after_utc.timestamp(),
            revoked=None,
        )
        transaction.put_certificate(issued)
        return issued

    # One-time tokens. -------------------------------------------------------------------

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
        if not 0 < seconds <= MAX_TOKEN_SECONDS:
            raise InputError(
                "bad-duration", f"a token lasts up to {MAX_TOKEN_SECONDS:.0f} s, not {seconds}"
            )
        profile = _profile(device, board, labels or {}, groups)
        token = secrets.token_urlsafe(32)
        now = self._clock()
        with self._registry.transaction() as transaction:
            transaction.forget_tokens(now - MAX_TOKEN_SECONDS)
            transaction.put_token(_digest(token), profile, now + seconds)
        return token

    def redeem(self, token: str, request: bytes, where: Enrolment) -> AgentConfig:
        """Enrols the device of a token with the key of its signing request.

        A token counts for one key, also when two requests race for it; a request that is
        refused for another reason does not use it up. Who asks again with the same token and
        key, because the answer was lost, gets the same certificate.

        Raises:
            RefusedError: ``bad-token``; unknown, used or out of date (which is not told).
            InputError: ``bad-request``, ``already-enrolled``.
        """
        bad_token = RefusedError(
            "bad-token", "the token is not valid, or was used: ask for a new one"
        )
        with self._registry.transaction() as transaction:
            digest, now = _digest(token), self._clock()
            profile = transaction.take_token(digest, now)
            used = transaction.used_token(digest, now) if profile is None else None
            for_whom = profile or used
            if for_whom is None:
                raise bad_token
            key = ca.parse_request(request, for_whom.device).public_key()
            if profile is None:
                issued = self._issued_before(transaction, for_whom.device, key)
                if issued is None:
                    raise bad_token
            else:
                self._make_room(transaction, profile.device, replace=False)
                transaction.put_device(profile)
                issued = self._issue(transaction, profile.device, key, ca.DEVICE_DAYS)
        tls = TlsConfig(ca=self.ca_pem, certificate=issued.pem, key="device.key.pem")
        return _config(self.fleet, for_whom, where, tls)

    def _issued_before(
        self, transaction: Transaction, device: str, key: CertificatePublicKeyTypes
    ) -> Issued | None:
        """The certificate that an enrolled device has for `key`, if it counts still."""
        entry = transaction.device(device)
        if entry is None or entry[1] is not None:
            return None
        now = self._clock()
        mine = [one for one in transaction.certificates(device) if _same_key(one.pem, key)]
        return next((one for one in mine if one.revoked is None and one.expires > now), None)

    # Renewal and revocation. ----------------------------------------------------------------

    def renew(self, certificate: bytes, request: bytes, signature: str) -> str:
        """A device's next certificate, for one that holds the current one.

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
            InputError: ``bad-certificate``, ``bad-request``.
        """
        current = ca.parse_certificate(certificate)
        now = self._clock()
        device = ca.common_name(current)
        refused = RefusedError(
            "bad-certificate",
            "the certificate is not one that can be renewed: enrol the device again",
        )
        if not self._authority.issued(current) or not _proven(current, request, signature):
            raise refused
        wanted = ca.parse_request(request, device).public_key()
        with self._registry.transaction() as transaction:
            mine = transaction.certificates(device)
            known = next((c for c in mine if c.serial == current.serial_number), None)
            entry = transaction.device(device)
            if known is None or known.revoked is not None or known.expires <= now:
                raise refused
            if entry is None or entry[1] is not None:
                raise refused
            newest = mine[-1]
            if newest.serial != known.serial and _same_key(newest.pem, wanted):
                return newest.pem
            days = round((known.expires - known.issued) / 86400)
            return self._issue(transaction, device, wanted, max(1, days)).pem

    def revoke(self, device: str) -> int:
        """Revokes all certificates of a device and writes the revocation list.

        Returns:
            How many certificates were revoked.

        Raises:
            InputError: ``no-such-device``.
        """
        check_name(device, "device")
        with self._registry.transaction() as transaction:
            if transaction.device(device) is None:
                raise InputError("no-such-device", f"{device} was never enrolled")
            count = transaction.revoke(device, self._clock())
        self.write_revocations()
        return count

    def certificates(self, device: str) -> list[Issued]:
        """What was issued to a device, oldest first."""
        with self._registry.transaction() as transaction:
            return transaction.certificates(device)

    def expiring(self, within: timedelta) -> list[Issued]:
        """The newest certificate of each device that expires within a time, for warnings."""
        limit = self._clock() + within.total_seconds()
        found = []
        with self._registry.transaction() as transaction:
            for profile, revoked in transaction.devices():
                mine = transaction.certificates(profile.device)
                if revoked is None and mine and mine[-1].expires < limit:
                    found.append(mine[-1])
        return found


# Parts. -------------------------------------------------------------------------------------


def _profile(device: str, board: str, labels: DeviceLabels, groups: Sequence[str]) -> Profile:
    if check_name(device, "device") in _RESERVED:
        raise InputError("reserved-name", f"{device} is a name of the fleet's own parts")
    try:
        return codec.convert(
            {"device": device, "board": board, "labels": labels, "groups": list(groups)}, Profile
        )
    except msgspec.ValidationError as error:
        raise InputError("bad-name", f"{device}: {error}") from None


def _config(fleet: str, profile: Profile, where: Enrolment, tls: TlsConfig | None) -> AgentConfig:
    return AgentConfig(
        fleet=fleet,
        device=profile.device,
        board=profile.board,
        trust_root=where.trust_root,
        mqtt=msgspec.structs.replace(where.mqtt, tls=tls),
        repository_url=where.repository_url,
        renewal_url=where.renewal_url,
        labels=profile.labels,
        groups=profile.groups,
    )


def _old(certificate: x509.Certificate, now: datetime) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (end - now) < (end - begin) / 3


def _digest(token: str) -> str:
    # A token has 256 random bits: a plain hash is enough, nothing can be guessed.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _proven(certificate: x509.Certificate, request: bytes, signature: str) -> bool:
    key = certificate.public_key()
    try:
        raw = base64.b64decode(signature, validate=True)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(raw, signed_bytes(request), ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def _same_key(pem: str, key: CertificatePublicKeyTypes) -> bool:
    def spki(public: CertificatePublicKeyTypes) -> bytes:
        return public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    return spki(ca.parse_certificate(pem.encode()).public_key()) == spki(key)
