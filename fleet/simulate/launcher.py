"""Runs ``python -m agent.simulate`` in one or more processes and follows its progress."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from contracts import codec, interpreter
from contracts.config import MqttConfig
from contracts.errors import ErrorBody, InputError, ShoalError, UnavailableError, from_info
from contracts.simulation import Counters

if TYPE_CHECKING:
    from typing_extensions import Self

DEVICES_PER_PROCESS: Final = 2500
_STOP_S: Final = 30.0


class Simulation:
    """Simulated devices as processes beside this one; a context manager.

    Args:
        fleet: its name.
        mqtt: the broker.
        devices: how many; each has its own connection.
        scenario: a scenario file; None: all goes well.
        repository_url: where bundles come from; None: nothing is downloaded.
        prefix: of device names.
        processes: how many; 0: one for every 2,500 devices.
        connects_per_s: of all processes together.
    """

    def __init__(
        self,
        fleet: str,
        mqtt: MqttConfig,
        devices: int,
        *,
        scenario: Path | None = None,
        repository_url: str | None = None,
        prefix: str = "sim-",
        processes: int = 0,
        connects_per_s: float = 300.0,
    ) -> None:
        if devices < 1:
            raise InputError("bad-count", f"expected at least 1 device, found {devices}")
        self.devices = devices
        self.prefix = prefix
        count = processes or -(-devices // DEVICES_PER_PROCESS)
        self._commands = []
        for index in range(count):
            first, last = devices * index // count, devices * (index + 1) // count
            command = interpreter.module(
                "agent.simulate", "--fleet", fleet,
                "--mqtt", codec.encode(mqtt).decode(), "--devices", str(devices),
                "--first", str(first), "--count", str(last - first), "--prefix", prefix,
                "--connects-per-s", str(connects_per_s / count),
            )  # fmt: skip
            if scenario is not None:
                command += ["--scenario", str(scenario)]
            if repository_url is not None:
                command += ["--repository-url", repository_url]
            self._commands.append(command)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._latest: list[dict[str, Any]] = [{} for _ in self._commands]
        self._connected = [False] * count
        self._changed = threading.Condition()
        self._failure: ShoalError | None = None

    @property
    def names(self) -> list[str]:
        """The devices' names."""
        return [f"{self.prefix}{index:05}" for index in range(self.devices)]

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [process.pid for process in self._processes]

    def __enter__(self) -> Self:
        for index, command in enumerate(self._commands):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self._processes.append(process)
            thread = threading.Thread(target=self._follow, args=(index, process), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> Counters:
        """Ends all processes; returns the final counts."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join(_STOP_S)
        return self.totals()

    def totals(self) -> Counters:
        """The newest counts."""
        sums = Counters()
        with self._changed:
            for facts in self._latest:
                for name in Counters.__struct_fields__:
                    setattr(sums, name, getattr(sums, name) + int(facts.get(name, 0)))
        return sums

    def wait_connected(self, timeout_s: float) -> None:
        """Returns once every device that should be online is.

        Raises:
            UnavailableError: ``not-connected``; it took too long.
            ShoalError: what a process ended with.
        """
        with self._changed:
            self._changed.wait_for(lambda: all(self._connected) or self._failure, timeout_s)
            if self._failure is not None:
                raise self._failure
            if not all(self._connected):
                raise UnavailableError(
                    "not-connected",
                    f"not all of {self.devices} simulated devices connected in {timeout_s:g} s",
                )

    def wait_changed(self, timeout_s: float) -> Counters:
        """Waits for the next progress report; returns the newest counts.

        Raises:
            ShoalError: what a process ended with.
        """
        with self._changed:
            self._changed.wait(timeout_s)
            if self._failure is not None:
                raise self._failure
        return self.totals()

    def _follow(self, index: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            facts = json.loads(line)
            with self._changed:
                if facts["event"] == "connected":
                    self._connected[index] = True
                else:
                    self._latest[index] = facts
                self._changed.notify_all()
        errors = process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        if process.wait() != 0:
            with self._changed:
                self._failure = _failure(errors, process.returncode)
                self._changed.notify_all()


def _failure(errors: bytes, code: int) -> ShoalError:
    """The error of a process, from what it wrote to stderr."""
    last = errors.strip().splitlines()[-1:] or [b""]
    with contextlib.suppress(InputError):
        info = codec.decode(last[0], ErrorBody, what="the simulator's error").error
        return InputError(info.code, info.message) if code == 2 else from_info(info)
    text = last[0].decode(errors="replace")[:300]
    return UnavailableError("simulator", f"the simulator ended with exit code {code}: {text}")
