"""Whether whoever asks holds the key of a certificate."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from contracts.renewal import signed_bytes
from fleet.identity import authority as ca


def proven(certificate: x509.Certificate, request: bytes, signature: str) -> bool:
    """Whether the holder of a certificate's key signed the request for the next one.

    Args:
        certificate: the current one.
        request: PEM.
        signature: base64, over :func:`contracts.renewal.signed_bytes` of the request.
    """
    key = certificate.public_key()
    try:
        raw = base64.b64decode(signature, validate=True)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(raw, signed_bytes(request), ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def same_key(pem: str, key: CertificatePublicKeyTypes) -> bool:
    """Whether a certificate (PEM) is of a key."""

    def spki(public: CertificatePublicKeyTypes) -> bytes:
        return public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    return spki(ca.parse_certificate(pem.encode()).public_key()) == spki(key)
