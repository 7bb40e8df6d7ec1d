"""10,000 answers of a hostile controller to an enrolment and to a renewal."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent import certificate as certificates
from agent.certificate import STORED, Certificate
from agent.cli import enroll
from agent.cli.device import read_config
from contracts import codec
from contracts.config import AgentConfig, MqttConfig, TlsConfig
from contracts.errors import ShoalError
from contracts.renewal import RenewalAnswer
from tests.support.mutate import payloads

COUNT = 10_000


def new_tls() -> TlsConfig:
    """An authority and a device's certificate of it."""
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.now(UTC)

    def signed(name: str, of: ec.EllipticCurvePrivateKey) -> str:
        built = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=9))
            .sign(authority, hashes.SHA256())
        )
        return built.public_bytes(serialization.Encoding.PEM).decode()

    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return TlsConfig(signed("ca", authority), signed("d", key), secret.decode())


def answers(seed: bytes) -> Iterator[bytes]:
    """`COUNT` answers around a good one."""
    for number in range(COUNT // 100):
        yield from payloads(number, [seed], 100)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_answer_to_a_renewal_costs_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is refused with an error of ours: none can be for the key that was just made."""
    tls = new_tls()
    config = AgentConfig(
        "f", "d", "raspberry-pi-5", "root", mqtt=MqttConfig(tls=tls), renewal_url="https://c/renew"
    )
    one = Certificate(config, tmp_path, tmp_path)
    # A key costs more than all the rest, and what is signed is not what is tested.
    request = certificates.new_request("d")
    monkeypatch.setattr(certificates, "new_request", lambda device: request)
    before = one.tls
    for data in answers(codec.encode(RenewalAnswer(tls.certificate or ""))):
        monkeypatch.setattr(certificates, "post", lambda *_, data=data: data)
        with pytest.raises(ShoalError) as caught:
            one.renew()
        assert str(caught.value)
    assert one.tls == before
    assert not (tmp_path / STORED).exists()


def test_no_answer_to_an_enrolment_leaves_half_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration is written whole and can be read, or not at all."""
    token = tmp_path / "token"
    token.write_text("secret")
    answer = AgentConfig("f", "d", "raspberry-pi-5", "root", mqtt=MqttConfig(tls=new_tls()))
    chance = random.Random(0)
    monkeypatch.setattr(enroll, "new_request", lambda device: ("key", "request"))
    arguments = argparse.Namespace(
        config=tmp_path / "agent.yaml",
        url="https://controller",
        ca=None,
        token_file=token,
        json=False,
    )
    enrolled = refused = 0
    for data in answers(codec.encode(msgspec.structs.replace(answer))):
        monkeypatch.setattr(enroll, "post", lambda *_, data=data: data)
        arguments.json = chance.random() < 0.5
        try:
            enroll.enroll(arguments)
        except ShoalError as error:
            assert str(error)
            refused += 1
        else:
            read_config(arguments.config)
            enrolled += 1
        arguments.config.unlink(missing_ok=True)
        capsys.readouterr()
    assert enrolled + refused == COUNT and enrolled and refused
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
