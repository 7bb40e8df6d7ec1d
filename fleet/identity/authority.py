"""The fleet's certificate authority: X.509 version 3, ECDSA P-256.

A device's certificate is for TLS clients alone and the broker's for TLS servers alone, so that
a stolen device can impersonate neither the broker nor another device. Sources: RFC 5280,
CA/Browser Forum naming of server addresses (subjectAltName, never the common name).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contracts.errors import InputError
from contracts.topics import check_name
from fleet import durable
from fleet.broker.acl import APPLICATION

CA_DAYS: Final = 20 * 365
DEVICE_DAYS: Final = 365
SERVER_DAYS: Final = 2 * 365
CRL_DAYS: Final = 400
"""A broker refuses everybody when its list is out of date: long, and renewed on every change."""

_BACKDATE: Final = timedelta(minutes=5)
"""Certificates begin a little in the past, for devices whose clocks are slow."""

_MAX_PEM_BYTES: Final = 16 * 1024
_MIN_RSA_BITS: Final = 2048


class Authority:
    """Signs certificates and revocation lists with the authority's key.

    Args:
        certificate: of the authority.
        key: its private key.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, fleet: str, now: datetime) -> Authority:
        """A new authority for `fleet`."""
        key = new_key()
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Shoal"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{check_name(fleet, 'fleet')} CA"),
            ]
        )
        certificate = (
            _builder(name, name, key.public_key(), now, now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate: Path, key: Path, passphrase: bytes | None = None) -> Authority:
        """Loads an authority from PEM files.

        Raises:
            InputError: ``no-authority``, ``key-exposed``, ``key-locked``, ``bad-key``.
        """
        try:
            pem, exposed = key.read_bytes(), key.stat().st_mode & 0o077
            loaded = parse_certificate(certificate.read_bytes())
        except FileNotFoundError as error:
            raise InputError(
                "no-authority", f"{error.filename} is missing: run `shoal fleet init`"
            ) from None
        if exposed:
            raise InputError("key-exposed", f"{key} can be read by others: chmod 600 it")
        try:
            private = serialization.load_pem_private_key(pem, passphrase)
        except TypeError:
            if passphrase is None:
                raise InputError("key-locked", f"{key} needs its passphrase") from None
            private = serialization.load_pem_private_key(pem, None)
        except (ValueError, UnsupportedAlgorithm):
            code = "bad-key" if passphrase is None else "key-locked"
            raise InputError(code, f"{key} is not a private key that can be opened") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise InputError("bad-key", f"{key} is not an ECDSA key")
        return cls(loaded, private)

    def save(self, certificate: Path, key: Path, passphrase: bytes | None = None) -> None:
        """Writes both as PEM; the key readable by its owner alone."""
        durable.write(key, key_pem(self._key, passphrase), mode=0o600, overwrite=False)
        durable.write(certificate, certificate_pem(self.certificate))

    # Issuing. ---------------------------------------------------------------------------

    def issue_client(
        self, name: str, public_key: CertificatePublicKeyTypes, now: datetime, days: int
    ) -> x509.Certificate:
        """A certificate for a TLS client; its common name is `name`."""
        return self._issue(name, public_key, now, days, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def issue_server(
        self,
        hosts: Sequence[str],
        public_key: CertificatePublicKeyTypes,
        now: datetime,
        name: str = "shoal-broker",
    ) -> x509.Certificate:
        """A certificate for a TLS server that is reached under `hosts` (names, addresses).

        Raises:
            InputError: ``bad-host``.
        """
        if not hosts:
            raise InputError("bad-host", "a server certificate needs at least one host")
        names = [general_name(host) for host in hosts]
        return self._issue(
            name, public_key, now, SERVER_DAYS, ExtendedKeyUsageOID.SERVER_AUTH, names
        )

    def _issue(
        self,
        name: str,
        public_key: CertificatePublicKeyTypes,
        now: datetime,
        days: int,
        purpose: x509.ObjectIdentifier,
        alternatives: list[x509.GeneralName],
    ) -> x509.Certificate:
        check_name(name.removeprefix(APPLICATION), "name")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = self.certificate
        until = min(now + timedelta(days=days), issuer.not_valid_after_utc)
        builder = (
            _builder(subject, issuer.subject, public_key, now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether this authority signed `certificate`."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def revocation_list(self, revoked: Iterable[tuple[int, datetime]], now: datetime) -> bytes:
        """The list of revoked certificates as PEM.

        Args:
            revoked: serial numbers with the time of revocation.
            now: when it is issued.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _BACKDATE)
            .next_update(now + timedelta(days=CRL_DAYS))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        )
        for serial, at in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# Parts. -------------------------------------------------------------------------------------


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: CertificatePublicKeyTypes,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(host: str) -> x509.GeneralName:
    """A host name or address as a subjectAltName; ``InputError`` (``bad-host``) if neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        if not host or len(host) > 253 or any(char in host for char in " /:@*"):
            raise ValueError
        return x509.DNSName(host)
    except ValueError:
        raise InputError("bad-host", f"{host[:100]!r} is not a host name or address") from None


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """A private key as PKCS #8 PEM."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def parse_certificate(pem: bytes) -> x509.Certificate:
    """Parses one PEM certificate.

    Raises:
        InputError: ``bad-certificate``.
    """
    try:
        if len(pem) > _MAX_PEM_BYTES:
            raise ValueError("too long")
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError("bad-certificate", f"not a PEM certificate: {error}"[:200]) from None


def parse_request(pem: bytes, device: str) -> x509.CertificateSigningRequest:
    """Parses and checks a certificate signing request.

    Only its key is used: the name comes from `device`, and asked-for extensions are ignored.

    Raises:
        InputError: ``bad-request``; not a request, not signed by its own key, a weak key, or
            for another name.
    """
    try:
        if len(pem) > _MAX_PEM_BYTES:
            raise ValueError(f"over {_MAX_PEM_BYTES} bytes")
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        signed = request.is_signature_valid
        names = [
            str(attribute.value)
            for attribute in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            "bad-request", f"not a PEM certificate signing request: {error}"[:200]
        ) from None
    if not signed:
        raise InputError("bad-request", "the signing request is not signed by its own key")
    if not _strong(key):
        raise InputError(
            "bad-request", "the request's key is weak: use ECDSA P-256, Ed25519, or RSA 2048"
        )
    if names not in ([], [device]):
        raise InputError(
            "bad-request", f"the request is for {', '.join(names)[:100]!r}, expected {device!r}"
        )
    return request


def _strong(key: object) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return _MIN_RSA_BITS <= key.key_size <= 8192
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
    return isinstance(key, ed25519.Ed25519PublicKey)


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The names and addresses of a server's certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def common_name(certificate: x509.Certificate) -> str:
    """The one common name of a certificate, or an empty string."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def from_epoch(seconds: float) -> datetime:
    """Seconds since the epoch as a time in whole seconds."""
    return datetime.fromtimestamp(int(seconds), timezone.utc)
