"""10,000 answers of a hostile controller to an enrolment and to a renewal."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.certificates import device as certificates
from agent.certificates.device import STORED, Certificate
from agent.cli import enroll
from agent.cli.device import read_config
from contracts import authorities, codec
from contracts.config import AgentConfig, MqttConfig
from contracts.connection import tls_context
from contracts.errors import ShoalError
from contracts.renewal import RenewalAnswer
from tests.support.certificates import new_tls
from tests.support.mutate import payloads

COUNT = 10_000


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
    context = tls_context(tls)  # made once: it reads all the machine's authorities
    before = one.tls
    for data in answers(codec.encode(RenewalAnswer(tls.certificate or ""))):
        monkeypatch.setattr(certificates, "post", lambda *_, data=data: data)
        with pytest.raises(ShoalError) as caught:
            one.renew(context)
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
    context = authorities.context()  # made once: it reads all the machine's authorities
    monkeypatch.setattr(enroll, "_context", lambda ca: context)
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
    # The key is kept for the next try.
    assert {path.name for path in tmp_path.iterdir()} <= {"token", ".agent.yaml.enrolling"}
