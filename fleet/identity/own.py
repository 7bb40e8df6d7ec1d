"""The authority's own side: what the broker and the controller hold, and who may do what there.

Nothing of a device is decided here: its certificates are in :mod:`fleet.identity.devices`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contracts.config import TlsConfig
from contracts.errors import InputError
from fleet import durable
from fleet.broker.acl import CONTROLLER, READER, Application
from fleet.broker.mosquitto import Credentials
from fleet.identity import authority as ca
from fleet.identity.authority import Authority
from fleet.identity.registry import Registry, Transaction

FOR_THE_BROKER: Final = "broker"
"""The folder below the authority's that has what the broker reads, and nothing else."""

_HALF: Final = timedelta(days=ca.CRL_DAYS / 2)


class Access(msgspec.Struct, frozen=True):
    """Who may do what on the broker.

    Attributes:
        groups: of each device that is not revoked.
        denied: names whose certificates are revoked and would be valid else, and that no
            other device has: an open connection under them may do nothing.
        applications: those that are not revoked.
    """

    groups: dict[str, list[str]]
    denied: list[str]
    applications: list[Application] = []

    @classmethod
    def of(cls, transaction: Transaction, now: float) -> Access:
        """As the registry has it now."""
        groups = {
            profile.device: profile.groups
            for profile, since in transaction.devices()
            if since is None
        }
        applications = [one for one, since in transaction.applications() if since is None]
        known = {*groups, *(one.user for one in applications)}
        denied = [name for name in transaction.denied(now) if name not in known]
        return cls(groups, denied, applications)


class Own:
    """Certificates of broker and controller, and the revocation list, in the authority's folder.

    Args:
        folder: of the authority.
        authority: signs.
        registry: what was issued.
        clock: seconds since the epoch.
    """

    def __init__(
        self, folder: Path, authority: Authority, registry: Registry, clock: Callable[[], float]
    ) -> None:
        self._folder = folder
        self._authority = authority
        self._registry = registry
        self._clock = clock

    @property
    def ca_pem(self) -> str:
        """The authority's certificate."""
        return ca.certificate_pem(self._authority.certificate).decode()

    @property
    def broker_credentials(self) -> Credentials:
        """The broker's files, for :func:`fleet.broker.write_configuration`."""
        folder = self._folder / FOR_THE_BROKER
        return Credentials(
            ca=folder / "ca.pem",
            certificate=folder / "broker.pem",
            key=folder / "broker.key.pem",
            crl=folder / "crl.pem",
        )

    def hand_out(self) -> None:
        """Copies what the broker reads into a folder of its own: a broker needs no key of others.

        What a power cut leaves between a file and its copy, the next call makes right; there is
        one at each start of a controller and with each change.
        """
        folder = self._folder / FOR_THE_BROKER
        durable.make_folder(folder, 0o700)
        # The certificate comes last: who serves it has read a list that is no older.
        for name in ("ca.pem", "crl.pem", "broker.key.pem", "broker.pem"):
            if not (self._folder / name).exists():
                continue  # an authority that is just being made
            data, copy = (self._folder / name).read_bytes(), folder / name
            if not copy.exists() or copy.read_bytes() != data:
                durable.write(copy, data, mode=0o600 if "key" in name else 0o644)

    @property
    def controller_tls(self) -> TlsConfig:
        """The controller's own client certificate, as paths."""
        return TlsConfig(
            ca=str((self._folder / "ca.pem").resolve()),
            certificate=str((self._folder / "controller.pem").resolve()),
            key=str((self._folder / "controller.key.pem").resolve()),
        )

    # Certificates -------------------------------------------------------------------------

    def renew_broker(self, hosts: Sequence[str] | None = None) -> None:
        """Writes a new key and certificate for the broker.

        Args:
            hosts: names and addresses under which it is reached; None: as before.
        """
        if hosts is None:
            hosts = ca.hosts_of(self._certificate("broker"))
        key = ca.new_key()
        certificate = self._authority.issue_server(hosts, key.public_key(), self._now())
        self._write_pair("broker", key, certificate)

    def renew_api(self, hosts: Sequence[str] | None = None) -> None:
        """Writes a new key and certificate for the API; `hosts` as for the broker."""
        if hosts is None:
            hosts = ca.hosts_of(self._certificate("api"))
        key = ca.new_key()
        certificate = self._authority.issue_server(
            hosts, key.public_key(), self._now(), name="shoal-api"
        )
        self._write_pair("api", key, certificate)

    def cover(self, hosts: Sequence[str], *, api: bool) -> list[str]:
        """Makes certificates of servers anew that lack a name, or the key that belongs to them.

        Args:
            hosts: the names and addresses.
            api: the API has a certificate of this authority, too.

        Returns:
            What was made, of ``broker`` and ``api``.
        """
        made = []
        if not self._covers("broker", hosts):
            self.write_revocations()  # before the certificate, which tells that it was read
            self.renew_broker(hosts)
            made.append("broker")
        if api and not self._covers("api", hosts):
            self.renew_api(hosts)
            made.append("api")
        return made

    def _covers(self, name: str, hosts: Sequence[str]) -> bool:
        if not self._fits(name):
            return False
        wanted = {ca.general_name(host) for host in hosts}
        return wanted <= {ca.general_name(host) for host in ca.hosts_of(self._certificate(name))}

    def renew_controller(self) -> None:
        """Writes a new key and certificate for the controller."""
        self._renew_client("controller", CONTROLLER)

    def ensure_reader(self) -> None:
        """Makes Home Assistant's key and certificate where they are missing, or old."""
        there = self._fits(READER) and not _old(self._certificate(READER), self._now())
        if not there:
            self._renew_client(READER, READER)

    def _renew_client(self, file: str, name: str) -> None:
        key = ca.new_key()
        certificate = self._authority.issue_client(
            name, key.public_key(), self._now(), ca.SERVER_DAYS
        )
        self._write_pair(file, key, certificate)

    def _write_pair(
        self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        # Both are whole on the disk before the first takes its place; what a power cut between
        # the two leaves, `mend` makes anew.
        with (
            durable.staged(self._folder / f"{name}.key.pem", mode=0o600) as private,
            durable.staged(self._folder / f"{name}.pem") as public,
        ):
            private.write(ca.key_pem(key))
            public.write(ca.certificate_pem(certificate))
            private.swap(sync=False)
            public.swap()
        self.hand_out()

    def mend(self) -> list[str]:
        """Makes anew what does not fit together: a key of one certificate beside another.

        Returns:
            What was made, of ``broker`` and ``controller``.
        """
        made = []
        if not self._fits("broker"):
            self.renew_broker()
            made.append("broker")
        if not self._fits("controller"):
            self.renew_controller()
            made.append("controller")
        return made

    def _fits(self, name: str) -> bool:
        try:
            data = (self._folder / f"{name}.key.pem").read_bytes()
            key = serialization.load_pem_private_key(data, None)
            certificate = self._certificate(name)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            return False
        return key.public_key() == certificate.public_key()

    def maintain(self) -> list[str]:
        """Renews what the broker and the controller hold, while it is valid; call it daily.

        Returns:
            What was renewed, of ``crl``, ``broker``, ``controller`` and ``api``. A broker reads
            its files when it starts and reloads (:mod:`fleet.identity.applied`), a controller
            when it connects, and its API when it is told.
        """
        now = self._now()
        made = self.mend()
        renewed = []
        crl = self._revocation_list()
        broker = self._certificate("broker")
        # Both, in this order: the certificate that a broker serves then tells which list it
        # has. The one that it read may be older than the one in the file, which a revocation
        # may have written since: hence also by the age of the certificate.
        if (
            crl.next_update_utc is None
            or crl.next_update_utc - now < _HALF
            or now - broker.not_valid_before_utc > _HALF
            or _old(broker, now)
            or not self._lists_all(crl)
        ):
            self.write_revocations()
            self.renew_broker()
            renewed += ["crl", "broker"]
        if _old(self._certificate("controller"), now):
            self.renew_controller()
            renewed.append("controller")
        if self._has_api and (not self._fits("api") or _old(self._certificate("api"), now)):
            self.renew_api()
            renewed.append("api")
        return list(dict.fromkeys([*renewed, *made]))

    @property
    def _has_api(self) -> bool:
        return (self._folder / "api.pem").exists()

    def _lists_all(self, crl: x509.CertificateRevocationList) -> bool:
        """Whether the list has what is revoked: a revocation may have broken off before it."""
        with self._registry.transaction() as transaction:
            revoked = transaction.revoked(self._clock())
        return {serial for serial, _ in revoked} <= {entry.serial_number for entry in crl}

    # Access -------------------------------------------------------------------------------

    @contextmanager
    def access(self) -> Iterator[Access]:
        """What the broker's ACL is made of, which nobody changes until the block ends.

        Write the ACL inside: of two that write it, an enrolment and a revocation, the later
        one has then seen what the earlier one did.
        """
        with self._registry.transaction() as transaction:
            yield Access.of(transaction, self._clock())

    def write_revocations(self) -> Path:
        """Writes ``crl.pem`` from what is revoked; call it at each start, it renews the list."""
        now = self._clock()
        with self._registry.transaction() as transaction:
            revoked = transaction.revoked(now)
            data = self._authority.revocation_list(
                [(serial, ca.from_epoch(at)) for serial, at in revoked], ca.from_epoch(now)
            )
            # Inside the transaction: two revocations must not write their lists out of order.
            durable.write(self._folder / "crl.pem", data)
            self.hand_out()
        return self._folder / "crl.pem"

    # Parts --------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return ca.from_epoch(self._clock())

    def _certificate(self, name: str) -> x509.Certificate:
        return ca.parse_certificate((self._folder / f"{name}.pem").read_bytes())

    def _revocation_list(self) -> x509.CertificateRevocationList:
        return x509.load_pem_x509_crl((self._folder / "crl.pem").read_bytes())


def _old(certificate: x509.Certificate, now: datetime) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (end - now) < (end - begin) / 3


def spans(folder: Path) -> dict[str, tuple[float, float]]:
    """From when to when the authority, its own certificates and the list count, by file.

    Without the authority's key, which may be elsewhere. What cannot be read is left out.
    """
    found = {}
    for name in ("ca", "broker", "controller", "api"):
        with contextlib.suppress(OSError, InputError):
            found[name] = span((folder / f"{name}.pem").read_bytes())
    with contextlib.suppress(OSError, ValueError):
        crl = x509.load_pem_x509_crl((folder / "crl.pem").read_bytes())
        if crl.next_update_utc is not None:
            found["crl"] = (crl.last_update_utc.timestamp(), crl.next_update_utc.timestamp())
    return found


def span(pem: bytes) -> tuple[float, float]:
    """From when to when a certificate counts, seconds since the epoch.

    Raises:
        InputError: ``bad-certificate``.
    """
    certificate = ca.parse_certificate(pem)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin.timestamp(), end.timestamp()
