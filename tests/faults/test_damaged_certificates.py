"""10,000 damaged certificates and keys at the start of an agent: each kept whole or set aside."""

from __future__ import annotations

import base64
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.certificates.device import STORED, Certificate
from contracts.config import AgentConfig, MqttConfig, TlsConfig

COUNT = 10_000


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> bytes:
    def named(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    now = datetime.now(timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=9))
        .sign(issuer_key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.DER)


def _pem(label: str, der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), body, label.encode())


def _damaged(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        kind = chance.random()
        if kind < 0.6:
            changed[at] = chance.randrange(256)
        elif kind < 0.8:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind < 0.9:
            del changed[at + 1 :]
        else:
            changed[at:at] = chance.randbytes(chance.randint(1, 5))
    return bytes(changed)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_damage_to_a_stored_certificate_keeps_an_agent_from_starting(tmp_path: Path) -> None:
    """It starts with the renewed certificate, or with the one of its enrolment."""
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = _pem("CERTIFICATE", _certificate("ca", authority, "ca", authority)).decode()
    certificate = _certificate("d", key, "ca", authority)
    secret = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    given = _pem("CERTIFICATE", certificate).decode()
    tls = TlsConfig(ca, given, _pem("PRIVATE KEY", secret).decode())
    config = AgentConfig("f", "d", "raspberry-pi-5", "root", mqtt=MqttConfig(tls=tls))
    stored = tmp_path / STORED
    kept = set_aside = 0
    for number in range(COUNT):
        chance = random.Random(number)
        which = chance.random()
        if which < 0.4:
            content = _pem("PRIVATE KEY", secret)
            content += _pem("CERTIFICATE", _damaged(chance, certificate))
        elif which < 0.8:
            content = _pem("PRIVATE KEY", _damaged(chance, secret))
            content += _pem("CERTIFICATE", certificate)
        else:
            content = _damaged(
                chance, _pem("PRIVATE KEY", secret) + _pem("CERTIFICATE", certificate)
            )
        stored.write_bytes(content)
        used = Certificate(config, tmp_path, tmp_path).tls
        assert used is not None
        if used.certificate == given:
            set_aside += 1
        else:
            kept += 1
    assert set_aside > COUNT / 2
    assert set_aside + kept == COUNT
