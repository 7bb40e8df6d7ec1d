"""Certificates looked at in a child: the same answers, and no cryptography stays loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.certificates.child import CertificateApart
from agent.certificates.device import Certificate, Validity, left_of
from agent.children import helper
from contracts import codec
from contracts.config import AgentConfig, MqttConfig, TlsConfig
from contracts.errors import RefusedError, UnavailableError
from tests.support.certificates import new_tls

DAY = 86400.0


def config(tls: TlsConfig | None = None, **changes: str) -> AgentConfig:
    """An enrolled device's configuration."""
    made = AgentConfig("f", "d", "raspberry-pi-5", "root", mqtt=MqttConfig(tls=tls or new_tls()))
    return msgspec.structs.replace(made, renewal_url="https://127.0.0.1:9/renew", **changes)


@pytest.mark.parametrize(
    ("now", "due"), [(0.0, False), (65.0, False), (68.0, True), (99.0, True), (101.0, False)]
)
def test_the_last_third_of_a_life_is_when_to_renew(now: float, due: bool) -> None:
    """Before it, it is early; after it, too late."""
    assert left_of(Validity(0.0, 100.0), now) == due


def test_a_child_finds_the_dates_that_this_process_finds(tmp_path: Path) -> None:
    """Valid for nine days from now on."""
    made = config()
    here, apart = Certificate(made, tmp_path, tmp_path), CertificateApart(made, tmp_path, tmp_path)
    validity = here.validity()
    assert validity is not None and validity.end - validity.begin == 9 * DAY
    for days in (0.5, 5.9, 6.1, 8.9, 9.1):
        now = validity.begin + days * DAY
        assert apart.due(now) == here.due(now) == (6 < days < 9)


def test_a_damaged_certificate_and_a_dead_controller_are_errors_with_their_class(
    tmp_path: Path,
) -> None:
    """A refusal stays one, what may work later too."""
    tls = new_tls()
    broken = msgspec.structs.replace(tls, certificate="-----BEGIN CERTIFICATE-----\nAAAA\n")
    with pytest.raises(RefusedError) as refused:
        CertificateApart(config(broken), tmp_path, tmp_path).due(0.0)
    assert refused.value.code == "bad-certificate"
    one = CertificateApart(config(tls), tmp_path, tmp_path)
    with pytest.raises(UnavailableError) as later:
        one.renew()
    assert later.value.code == "controller-unreachable"
    assert one.tls == tls


def test_a_child_without_an_answer_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed, or there was no memory to start it."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(helper, "start", helper.Helper(idle_s=0.0).start)
    with pytest.raises(UnavailableError) as caught:
        CertificateApart(config(), tmp_path, tmp_path).due(0.0)
    assert caught.value.code == "certificate-failed"


def test_an_agent_with_a_certificate_holds_no_cryptography(tmp_path: Path) -> None:
    """Looking at it does not load the library into the process that serves."""
    program = (
        "import sys; from pathlib import Path\n"
        "from agent.certificates.child import CertificateApart\n"
        "from contracts import codec; from contracts.config import AgentConfig\n"
        "config = codec.decode(Path(sys.argv[1]).read_bytes(), AgentConfig, what='c')\n"
        "one = CertificateApart(config, Path(sys.argv[2]), Path(sys.argv[2]))\n"
        "print(one.due(0.0), 'cryptography' in sys.modules)\n"
    )
    path = tmp_path / "config.json"
    path.write_bytes(codec.encode(config()))
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout.split() == ["False", "False"]
