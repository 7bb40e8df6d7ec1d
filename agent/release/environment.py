"""Making the environment of a release beside the one that runs, and trying it out.

The board's own Python makes it, and the pip of what was installed fills it, from the archive's
wheels alone and with their digests. Nothing of it is used before its own program has loaded the
models that serve now, and answered their golden vectors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from agent.system.log import logger
from contracts import codec, limits, release
from contracts.errors import ErrorInfo, InputError, RefusedError, UnavailableError
from contracts.release import ReleaseArchive

log = logger(__name__)

BUILD_S: Final = 1800
"""Seconds that making an environment may take: a slow board writes 250 MB."""

SELFTEST_S: Final = 900
"""Seconds of its self-test."""

SPACE_FACTOR: Final = 6
"""Bytes of the disk for each of the archive's: itself, its wheels apart, and both unpacked."""

SPACE_BYTES: Final = 32 * limits.MIB
"""And as many more."""

_HUMBLY: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.nice(10); "
    "os.getppid() == int(sys.argv[1]) or sys.exit('its parent ended'); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
"""Ends with its parent, leaves the processor to who answers, and becomes the program."""

_TOLD: Final = 600
"""Characters of a program's last words that a reason quotes."""


class Environments(Protocol):
    """What makes environments, and tries them out."""

    @property
    def target(self) -> tuple[str, str]:
        """Platform and Python of the archives that run here."""

    def build(self, archive: Path, folder: Path, version: str) -> None:
        """Makes the environment of an archive in `folder`, which is made anew, durably.

        Raises:
            InputError, RefusedError: the archive is of no use here.
            UnavailableError: ``disk-full``, ``shutting-down``.
            OSError: the disk refuses.
        """

    def selftest(self, folder: Path, version: str, serves: Sequence[str]) -> None:
        """Has the environment's own program load the models, and answer their golden vectors.

        Raises:
            RefusedError: ``release-selftest``.
            UnavailableError: ``shutting-down``.
        """

    def remove(self, folder: Path) -> None:
        """Removes an environment."""


class Venvs:
    """Environments by ``venv`` and ``pip``.

    Args:
        config: the agent's configuration file.
        base: the environment that was installed, which has pip.
        scratch: a folder for what is unpacked meanwhile.
        stop: set when the agent stops.
    """

    def __init__(self, config: Path, base: Path, scratch: Path, stop: threading.Event) -> None:
        self._config = config
        self._base = base
        self._scratch = scratch
        self._stop = stop
        self.target = release.here()

    def build(self, archive: Path, folder: Path, version: str) -> None:
        """As :meth:`Environments.build`."""
        platform, python = self.target
        opened = ReleaseArchive.open(archive, platform=platform, python=python)
        if opened.release.version != version:
            raise RefusedError(
                "wrong-release",
                f"the archive is of version {opened.release.version}, expected {version}",
            )
        self.remove(folder)
        shutil.rmtree(self._scratch, ignore_errors=True)
        wheels = self._scratch / "wheels"
        wheels.mkdir(parents=True)
        try:
            opened.extract(wheels)
            lines = [
                f"{(wheels / one.file).as_uri()} --hash=sha256:{one.sha256}\n"
                for one in opened.release.wheels
            ]
            (self._scratch / "requirements.txt").write_text("".join(lines))
            self._run(
                "making its environment",
                [sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)],
                BUILD_S,
            )
            self._run(
                "installing its wheels",
                [
                    str(self._base / "bin/python"), "-I", "-m", "pip", "install", "--quiet",
                    "--isolated", "--disable-pip-version-check", "--no-input", "--no-cache-dir",
                    "--no-warn-script-location", "--no-index", "--require-hashes",
                    "--ignore-installed", "--prefix", str(folder),
                    "--requirement", str(self._scratch / "requirements.txt"),
                ],
                BUILD_S,
            )  # fmt: skip
            os.sync()  # thousands of files, before the one that says that they are whole
        except BaseException:
            self.remove(folder)
            raise
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def selftest(self, folder: Path, version: str, serves: Sequence[str]) -> None:
        """As :meth:`Environments.selftest`."""
        python = [str(folder / "bin/python"), "-I"]
        program = (  # one that knows no starter would never end its trial
            "import agent.daemon, agent.cli.device, agent.release.home, contracts; "
            "print(contracts.__version__)"
        )
        code, said = self._ask([*python, "-c", program], SELFTEST_S)
        found = said.decode(errors="replace").strip().rpartition("\n")[2][:100]
        if code != 0 or found != version:
            raise _failed(f"its program says version {found!r}, exit code {code}")
        if not serves:
            return
        command = [*python, "-m", "agent", "selftest", "--json", "--config", str(self._config)]
        code, said = self._ask(command, SELFTEST_S)
        bad = _failing(said, serves)
        if bad:
            raise _failed("; ".join(bad))

    def remove(self, folder: Path) -> None:
        """As :meth:`Environments.remove`."""
        if folder.exists():
            (folder / "ready.json").unlink(missing_ok=True)  # first: half of one is none
            shutil.rmtree(folder)

    # Programs. -----------------------------------------------------------------------------

    def _run(self, what: str, command: list[str], seconds: float) -> None:
        code, said = self._ask(command, seconds, merged=True)
        if code == 0:
            return
        words = " ".join(said.decode(errors="replace")[-_TOLD:].split())
        if "No space left" in words or shutil.disk_usage(self._scratch).free < limits.MIB:
            raise UnavailableError(
                "disk-full", f"the disk is full: {what} needs more room: make room on the device"
            )
        raise RefusedError("release-install", f"{what} failed with exit code {code}: {words}")

    def _ask(
        self, command: list[str], seconds: float, *, merged: bool = False
    ) -> tuple[int, bytes]:
        """Runs a program to its end; its exit code and what it wrote."""
        scratch = str(self._scratch if self._scratch.exists() else self._scratch.parent)
        kept = ("PATH", "LANG", "LC_ALL", "HOME", "LD_LIBRARY_PATH")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {"TMPDIR": scratch, "OPENBLAS_NUM_THREADS": "1"}
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", _HUMBLY, str(os.getpid()), *command],
            env=env,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.DEVNULL,
        )
        said: list[bytes] = []
        assert child.stdout is not None
        reader = threading.Thread(target=_drain, args=(child.stdout, said), daemon=True)
        reader.start()
        end = time.monotonic() + seconds
        try:
            while reader.is_alive() and time.monotonic() < end:
                reader.join(0.5)
                if self._stop.is_set():
                    raise UnavailableError("shutting-down", "the agent is stopping")
            if reader.is_alive():
                return -1, f"it did not end within {seconds:g} s".encode()
            return child.wait(5), b"".join(said)
        finally:
            child.kill()
            child.wait()
            reader.join(5)
            if not reader.is_alive():  # a process of its own may hold the other end
                child.stdout.close()


def _drain(stream: Any, said: list[bytes]) -> None:
    """Reads to the end; keeps the first and the last of it."""
    while chunk := stream.read1(1 << 16):
        said.append(chunk)
        if sum(map(len, said)) > limits.MIB:
            del said[1:-1]


def _failed(why: str) -> RefusedError:
    return RefusedError("release-selftest", f"the new release's self-test failed: {why}")


class _Tested(msgspec.Struct):
    selftested: dict[str, Any] | None = None
    slot: str = ""
    error: ErrorInfo | None = None


def _failing(said: bytes, serves: Sequence[str]) -> list[str]:
    """What a self-test says of the slots that have to serve: those that do not, and why."""
    try:
        found = {one.slot: one for one in codec.decode(said, list[_Tested], what="a self-test")}
    except InputError as error:  # an older or newer program, or none that answers
        return [f"it gave no answer ({error.code})"]
    bad = []
    for slot in serves:
        one = found.get(slot)
        if one is None or one.selftested is None:
            why = one.error.message if one and one.error else "no answer"
            bad.append(f"{slot}: {why[:200]}")
    return bad


__all__ = ["BUILD_S", "SPACE_BYTES", "SPACE_FACTOR", "Environments", "Venvs"]
