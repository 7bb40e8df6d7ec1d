"""A MicroPython board on a serial port: the unix port behind a pseudo-terminal.

MicroPython's own REPL answers; what this file adds is what the unix port lacks of a board: a
reset that starts again instead of ending the process, in the mode in which the REPL was.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import threading
import tty
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.micro import device

if TYPE_CHECKING:
    from typing_extensions import Self

_RAW = b"\x01"
_FRIENDLY = b"\x02"
_PROMPT = b">>> "


class Board:
    """Powered while inside ``with``.

    Args:
        folder: keeps the flash of the board, so that a later board has its files.
        line: what becomes of bytes on their way to the board; with None the board vanishes, as
            when its cable is pulled.
        blocks: of 4096 bytes in its flash.

    Attributes:
        port: the path of the serial port.
        restarted: set by ``machine.reset()``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        line: Callable[[bytes], bytes | None] = lambda data: data,
        blocks: int = 64,
    ) -> None:
        self._image = folder / "flash.img"
        self._line = line
        self._blocks = blocks
        self._raw = False
        self._ended = threading.Event()
        self.port = str(folder / "ttyBOARD")
        self.restarted = threading.Event()

    def __enter__(self) -> Self:
        self._outside, inside = pty.openpty()
        # Open on this side too: a port that the computer closes does not hang up the board.
        self._open = [self._outside, inside]
        tty.setraw(inside)
        # Not below /dev/pts, which mpremote reads in another way than a board's port.
        Path(self.port).unlink(missing_ok=True)
        Path(self.port).symlink_to(os.ttyname(inside))
        # Of a board before this one that lost its power in a reset.
        self._image.with_name(self._image.name + ".reset").unlink(missing_ok=True)
        self._boot()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)
        self._process.kill()
        self._process.wait(10)
        os.close(self._repl)
        self._close()

    def files(self) -> dict[str, bytes]:
        """What the flash holds, by path."""
        found = device.run("board.py", str(self._image), str(self._blocks), "dump")
        return {name: bytes.fromhex(data) for name, data in found.items()}

    def _boot(self) -> None:
        self._repl, inside = pty.openpty()
        tty.setraw(inside)
        self._process = subprocess.Popen(
            [device.micropython(), "-i", str(device.SCRIPTS / "board.py"), str(self._image),
             str(self._blocks)],
            stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
            env=device.environment(),
        )  # fmt: skip
        os.close(inside)
        said = b""
        while not said.endswith(_PROMPT):
            said += os.read(self._repl, 256)

    def _again(self) -> None:
        """Starts after a reset; a soft one stays in the raw REPL."""
        self._process.wait(10)
        os.close(self._repl)
        marker = self._image.with_name(self._image.name + ".reset")
        self._boot()
        if marker.exists():
            marker.unlink()
            self._raw = False
            self.restarted.set()
            return
        os.write(self._outside, b"soft reboot\r\n")
        if self._raw:
            os.write(self._repl, _RAW)

    def _run(self) -> None:
        while not self._ended.is_set():
            ready, _, _ = select.select([self._outside, self._repl], [], [], 0.05)
            if self._outside in ready:
                data = self._line(os.read(self._outside, 1024))
                if data is None:
                    self._close()
                    return
                for byte in data:
                    self._raw = {_RAW: True, _FRIENDLY: False}.get(bytes([byte]), self._raw)
                os.write(self._repl, data)
            if self._repl in ready:
                try:
                    data = os.read(self._repl, 1024)
                except OSError:
                    self._again()
                    continue
                os.write(self._outside, data)

    def _close(self) -> None:
        Path(self.port).unlink(missing_ok=True)
        while self._open:
            os.close(self._open.pop())
