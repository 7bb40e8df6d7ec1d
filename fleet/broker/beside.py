"""The broker beside a controller: the one that runs already, or a child that is looked after."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import structlog

from contracts.config import MqttConfig
from contracts.connection import is_loopback
from contracts.errors import UnavailableError
from fleet.broker import reload
from fleet.broker.run import MosquittoBroker, is_taken, wait_until_connectable

if TYPE_CHECKING:
    from typing_extensions import Self

_LOG: Final = structlog.get_logger("broker")
_GLANCE_S: Final = 0.5
_FIRST_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 30.0
_AGAIN_S: Final = 10.0
"""Within which whoever else runs the broker, as a unit does, has it run again."""


class Beside:
    """Runs mosquitto with a generated configuration while it lasts; a context manager.

    A broker that answers already (a unit, another machine, one that a killed controller left) is
    used as it is, and one of this machine is replaced by a child when it is gone for a while. A
    child that ends is started again.

    Args:
        folder: of the generated configuration.
        mqtt: the controller's way to the broker, with its certificate.
        port: where devices come in.
        files: that the broker may have open.
        setting: of ``fleet.yaml``, which moves it to another port, for messages.

    Attributes:
        found: a broker was there already.
    """

    def __init__(
        self, folder: Path, mqtt: MqttConfig, *, port: int, files: int, setting: str
    ) -> None:
        self._folder = folder
        self._mqtt = mqtt
        self._port = port
        self._files = files
        self._setting = setting
        self._broker: MosquittoBroker | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="broker", daemon=True)
        self.found = False

    def __enter__(self) -> Self:
        """Returns once the broker answers.

        Raises:
            UnavailableError: ``broker-unreachable``, ``port-taken``, ``no-mosquitto``.
        """
        where = self._mqtt.where
        self.found = self._answers()
        if self.found:
            reload.reload(self._folder)
            _LOG.info("a broker of this fleet runs already", address=where)
            if reload.running(self._folder) is not None:
                self._thread.start()
            return self
        if not is_loopback(self._mqtt.host):
            raise UnavailableError(
                "broker-unreachable",
                f"no broker of this fleet answers on {where}: start it there, or set mqtt.host "
                "and mqtt.port in fleet.yaml",
            )
        for port in {self._port, self._mqtt.port}:
            if is_taken(port):
                raise UnavailableError(
                    "port-taken",
                    f"another program listens on port {port}, and it is not this fleet's broker: "
                    f"end it (Debian's own mosquitto: systemctl disable --now mosquitto), or set "
                    f"{self._setting} in fleet.yaml before devices are enrolled",
                )
        _allow_files(self._files)
        self._start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(60)
        if self._broker is not None:
            self._broker.stop()

    def _answers(self) -> bool:
        with contextlib.suppress(UnavailableError):
            wait_until_connectable(self._mqtt, _GLANCE_S)
            return True
        return False

    def _start(self) -> None:
        self._broker = broker = MosquittoBroker(
            self._folder / "mosquitto.conf", port=self._mqtt.port, host=self._mqtt.host
        )
        broker.start()
        wait_until_connectable(self._mqtt)
        _LOG.info("broker started", port=self._port)

    def _ended(self) -> int | None:
        """Whether there is no broker: the exit code, -1 of one that was found; None: it runs."""
        if self._broker is not None:
            return self._broker.ended
        deadline = time.monotonic() + _AGAIN_S
        while not is_taken(self._mqtt.port):
            if time.monotonic() > deadline:
                return -1
            if self._stopping.wait(_GLANCE_S):
                break
        return None

    def _look_after(self) -> None:
        pause = _FIRST_PAUSE_S
        while not self._stopping.wait(_GLANCE_S):
            code = self._ended()
            if code is None:
                pause = _FIRST_PAUSE_S
                continue
            _LOG.error("the broker ended: starting it again", exit_code=code)
            try:
                self._start()
            except UnavailableError as error:
                _LOG.error("the broker does not start", reason=str(error))
                self._stopping.wait(pause)
                pause = min(_MAX_PAUSE_S, pause * 2)


def _allow_files(wanted: int) -> None:
    """Lets this process, and the broker that it starts, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        _LOG.warning(
            "fewer files may be open than the broker wants for its devices: raise the limit "
            "(ulimit -Hn, LimitNOFILE), or set devices in fleet.yaml",
            wanted=wanted,
            allowed=hard,
        )
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
