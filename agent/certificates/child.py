"""The device's certificate looked at and renewed in a child.

The cryptography of certificates takes about 9 MB that Python does not give back. It is needed
at a start after a renewal, once for the dates, and for the renewal itself.
"""

from __future__ import annotations

import importlib
from io import BufferedRWPair
from pathlib import Path
from typing import Final, Literal

import msgspec

from agent.certificates.device import STORED, Certificate, Validity, left_of, with_texts
from agent.children import helper, wire
from agent.children.limits import Failure, limit_child, why
from agent.system.log import configure
from contracts.config import AgentConfig, TlsConfig
from contracts.errors import ErrorInfo, ShoalError, UnavailableError

SECONDS: Final = 120
"""Seconds after which a child is killed."""


class Question(msgspec.Struct, frozen=True):
    """To the child.

    Attributes:
        do: ``look`` or ``renew``.
        config: ``agent.yaml``.
        folder: what its relative paths are relative to.
        state: the state folder.
    """

    do: Literal["look", "renew"]
    config: AgentConfig
    folder: str
    state: str


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """From the child: the certificate in use, or why there is none.

    Attributes:
        tls: PEM texts.
        validity: of the certificate; None: there is no certificate.
        failure: why the question has no answer.
    """

    tls: TlsConfig | None = None
    validity: Validity | None = None
    failure: Failure | None = None


class CertificateApart:
    """As :class:`agent.certificates.device.Certificate`, whose work is done in children.

    Args:
        config: ``agent.yaml``.
        folder: what its relative paths are relative to.
        state: the state folder.
    """

    def __init__(self, config: AgentConfig, folder: Path, state: Path) -> None:
        self._config = config
        self._folder = folder
        self._state = state
        self._validity: Validity | None = None
        self.tls = with_texts(config.mqtt.tls, folder)
        if self.tls is not None and self.tls.certificate and (state / STORED).exists():
            self._look()

    def _look(self) -> None:
        found = self._ask("look")
        self.tls, self._validity = found.tls, found.validity

    def due(self, now: float) -> bool:
        """As :meth:`agent.certificates.device.Certificate.due`.

        Raises:
            ShoalError: the certificate cannot be looked at.
        """
        if self._config.renewal_url is None or self.tls is None or not self.tls.certificate:
            return False
        if self._validity is None:
            self._look()
        return self._validity is not None and left_of(self._validity, now)

    def renew(self) -> TlsConfig:
        """As :meth:`agent.certificates.device.Certificate.renew`."""
        found = self._ask("renew")
        assert found.tls is not None
        self.tls, self._validity = found.tls, found.validity
        return found.tls

    def _ask(self, do: Literal["look", "renew"]) -> Found:
        folder, state = str(self._folder.absolute()), str(self._state.absolute())
        question = Question(do, self._config, folder, state)
        with helper.start("certificate", SECONDS) as child:
            try:
                wire.send(child.line, question)
                found = wire.receive(child.line, Found)
            except (OSError, EOFError) as error:
                raise UnavailableError(
                    "certificate-failed",
                    f"looking at the certificate ended without an answer{why(error)}",
                ) from None
        if found.failure is not None:
            raise found.failure.raised()
        return found


def preload() -> None:
    """What every child needs."""
    importlib.import_module("cryptography.x509")


def main(line: BufferedRWPair) -> int:
    """The child: a question, answered. It logs as the agent does, to standard error."""
    limit_child()
    configure()
    wire.send(line, answer(wire.receive(line, Question)))
    return 0


def answer(question: Question) -> Found:
    """The child's work."""
    try:
        one = Certificate(question.config, Path(question.folder), Path(question.state))
        if question.do == "renew" and one.tls is not None:
            one.renew()
        return Found(one.tls, one.validity())
    except ShoalError as error:
        return Found(failure=Failure.of(error))
    except OSError as error:
        info = ErrorInfo("disk-error", f"the certificate cannot be stored: {error}")
        return Found(failure=Failure("other", info))
