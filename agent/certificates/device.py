"""The device's side of its certificate: keys that never leave it, requests, renewed files.

``agent.yaml`` holds the first certificate. A renewed one is stored with its key in one file,
replaced whole, in the state folder; the one that lasts longer is used. A file that is not of
this device and of this fleet's authority is ignored.
"""

from __future__ import annotations

import base64
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from agent.system import unreachable
from agent.system.filesystem import TEMPORARY, Disk, write_durably
from agent.system.log import logger
from contracts import authorities, codec
from contracts.config import AgentConfig, TlsConfig
from contracts.connection import read_pem, tls_context
from contracts.errors import ErrorBody, InputError, RefusedError, UnavailableError, from_info
from contracts.renewal import RenewalAnswer, RenewalRequest, signed_bytes

if TYPE_CHECKING:
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

log = logger(__name__)

STORED: Final = "certificate.pem"
"""In the state folder: the renewed certificate and its private key."""

RENEW_AT: Final = 1 / 3
"""Renew when less than this share of a certificate's life is left."""

MAX_ANSWER_BYTES: Final = 64 * 1024
"""Bytes of an answer of the controller to an enrolment or a renewal."""

POST_S: Final = 20.0
"""Seconds to connect, and between two pieces of an answer."""


def new_request(device: str | None) -> tuple[str, str]:
    """A new private key and a signing request for it, both PEM.

    Args:
        device: the common name; None: the controller knows it (by a token).

    Returns:
        The private key (PKCS #8), and the request.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    names = [] if device is None else [x509.NameAttribute(NameOID.COMMON_NAME, device)]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(names))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem.decode(), request.public_bytes(serialization.Encoding.PEM).decode()


class Validity(msgspec.Struct, frozen=True):
    """From when to when a certificate is valid, seconds since the epoch."""

    begin: float
    end: float


def left_of(validity: Validity, now: float) -> bool:
    """Whether less than :data:`RENEW_AT` of a certificate's life is left, and some is."""
    left = (validity.end - now) / max(1.0, validity.end - validity.begin)
    return 0 < left < RENEW_AT


def with_texts(tls: TlsConfig | None, folder: Path) -> TlsConfig | None:
    """The settings with the PEM texts in place of their paths.

    Args:
        tls: of ``agent.yaml``.
        folder: what relative paths are relative to.

    Raises:
        InputError: a file cannot be read.
    """
    if tls is None or not tls.certificate or not tls.key:
        return tls
    return TlsConfig(
        ca=read_pem(tls.ca, folder) if tls.ca else "",
        certificate=read_pem(tls.certificate, folder),
        key=read_pem(tls.key, folder),
        server_name=tls.server_name,
    )


class Certificate:
    """The certificate in use, and how to get the next.

    Args:
        config: ``agent.yaml``.
        folder: what its relative paths are relative to.
        state: the state folder.
    """

    def __init__(self, config: AgentConfig, folder: Path, state: Path) -> None:
        self._config = config
        self._folder = folder
        self._path = state / STORED
        self.tls = self._choose()

    def _choose(self) -> TlsConfig | None:
        given = with_texts(self._config.mqtt.tls, self._folder)
        if given is None or not given.certificate or not given.key:
            return given
        try:
            stored = self._path.read_text("ascii")
        except FileNotFoundError:
            return given
        except (OSError, UnicodeDecodeError) as error:
            log.warning("renewed certificate unreadable", reason=str(error))
            return given
        candidate = msgspec.structs.replace(given, certificate=stored, key=stored)
        try:
            # The renewed one is the younger, also when both expire in the same second.
            if self._check(candidate) >= self._check(given):
                return candidate
        except RefusedError as error:
            log.warning("renewed certificate ignored", reason=str(error))
        return given

    def _check(self, tls: TlsConfig) -> datetime:
        """When a certificate expires; refused unless it is ours in every way."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from cryptography.x509.oid import NameOID

        try:
            certificate = _load(tls)
            authority = x509.load_pem_x509_certificate(tls.ca.encode())
            key = load_pem_private_key((tls.key or "").encode(), None)
            certificate.verify_directly_issued_by(authority)
        except (
            ValueError,
            TypeError,
            InvalidSignature,
            UnsupportedAlgorithm,
            x509.InvalidVersion,
        ) as error:
            raise RefusedError(
                "bad-certificate", f"not a certificate of this fleet: {str(error)[:200]}"
            ) from None
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if [name.value for name in names] != [self._config.device]:
            raise RefusedError("bad-certificate", "the certificate is of another device")
        if certificate.public_key() != key.public_key():
            raise RefusedError("bad-certificate", "the certificate is of another key")
        return certificate.not_valid_after_utc

    def due(self, now: float) -> bool:
        """Whether it is time to renew, and there is somebody to ask."""
        validity = None if self._config.renewal_url is None else self.validity()
        return validity is not None and left_of(validity, now)

    def validity(self) -> Validity | None:
        """When the certificate in use is valid; None: there is none.

        Raises:
            RefusedError: ``bad-certificate``; it is no certificate.
        """
        if self.tls is None or not self.tls.certificate:
            return None
        try:
            certificate = _load(self.tls)
        except ValueError as error:
            raise RefusedError(
                "bad-certificate", f"not a certificate: {str(error)[:200]}"
            ) from None
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return Validity(begin.timestamp(), end.timestamp())

    def renew(self, context: ssl.SSLContext | None = None) -> TlsConfig:
        """Asks for the next certificate, with a new key, and stores both.

        Args:
            context: for an ``https`` address; None: made from the certificate in use.

        Returns:
            The new TLS settings, PEM texts.

        Raises:
            UnavailableError: the controller cannot be reached; try later.
            RefusedError: ``bad-certificate``; what it sent is not ours.
            ShoalError: what the controller answered.
            OSError: the disk would not take it; the old certificate stays in use.
        """
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        assert self.tls is not None
        assert self._config.renewal_url is not None
        current = load_pem_private_key((self.tls.key or "").encode(), None)
        if not isinstance(current, ec.EllipticCurvePrivateKey):
            raise InputError("bad-certificate", "only ECDSA keys can ask for a renewal")
        key, request = new_request(self._config.device)
        body = RenewalRequest(
            certificate=_public_part(self.tls.certificate or ""),
            request=request,
            signature=_sign(current, signed_bytes(request.encode()), ec.ECDSA(hashes.SHA256())),
        )
        answer = codec.decode(
            post(self._config.renewal_url, codec.encode(body), context or tls_context(self.tls)),
            RenewalAnswer,
            what="the answer to a renewal",
            cap=MAX_ANSWER_BYTES,
        )
        text = answer.certificate.strip() + "\n" + key
        tls = msgspec.structs.replace(self.tls, certificate=text, key=text)
        self._check(tls)
        # Made before it is written, so that the key is never readable by others.
        temporary = self._path.with_name(self._path.name + TEMPORARY)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        write_durably(Disk(), self._path, text.encode())
        self.tls = tls
        log.info("certificate renewed")
        return tls


def _load(tls: TlsConfig) -> x509.Certificate:
    from cryptography import x509

    return x509.load_pem_x509_certificate((tls.certificate or "").encode())


def _public_part(pem: str) -> str:
    """The certificate alone: the stored file also holds the key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    certificate = x509.load_pem_x509_certificate(pem.encode())
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes, scheme: ec.ECDSA) -> str:
    return base64.b64encode(key.sign(data, scheme)).decode()


def post(url: str, body: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Posts JSON to the controller.

    Args:
        url: where to.
        body: the JSON.
        context: for ``https``; None: with the system's authorities alone.

    Returns:
        The body of its answer, at most :data:`MAX_ANSWER_BYTES`.

    Raises:
        UnavailableError: ``controller-unreachable``.
        RefusedError: ``endless-data``.
        ShoalError: the error that the controller answered.
    """
    import urllib3

    pool = urllib3.PoolManager(
        retries=False,
        timeout=urllib3.Timeout(connect=POST_S, read=POST_S),
        ssl_context=context or authorities.context(),
    )
    try:
        answer = pool.request(
            "POST",
            url,
            body=body,
            redirect=False,
            preload_content=False,
            decode_content=False,
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
        )
        try:
            data = answer.read(MAX_ANSWER_BYTES + 1)
        finally:
            answer.close()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        parts = urlsplit(url)
        cause = unreachable.why(
            error, parts.hostname or "", parts.port or 443, server="the controller"
        )
        raise UnavailableError(
            "controller-unreachable",
            f"{url[:200]} cannot be reached: {cause or str(error)[:200]}",
        ) from None
    finally:
        pool.clear()
    if len(data) > MAX_ANSWER_BYTES:
        raise RefusedError("endless-data", f"{url[:200]} answered over {MAX_ANSWER_BYTES} bytes")
    if answer.status not in (200, 201):
        try:
            info = codec.decode(data, ErrorBody, what="an error", cap=MAX_ANSWER_BYTES).error
        except InputError:
            raise UnavailableError(
                "controller-unreachable", f"{url[:200]} answered {answer.status}"
            ) from None
        raise from_info(info)
    return data
