"""`shoal boards flash` on a MicroPython with a littlefs behind a pseudo-terminal."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contracts.errors import InputError, ShoalError, UnavailableError
from fleet.boards.flash import flash
from fleet.cli.app import app
from tests.support.board import Board

SIZES = {
    "lib/micro/__init__.mpy": 0,
    "lib/micro/mqtt.mpy": 3000,
    "lib/micro/store.mpy": 300,
    "shoal/key.der": 1200,
    "shoal/shoal.json": 257,
    "main.py": 80,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A board's folder of arbitrary bytes."""
    folder = tmp_path / "chip-board"
    for name, size in SIZES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(size))
    return folder


def _content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SIZES}


def _after(start: bytes, then: Callable[[bytes], bytes | None]) -> Callable[[bytes], bytes | None]:
    """A line that is good until `start` was sent over it."""
    seen = bytearray()

    def line(data: bytes) -> bytes | None:
        seen.extend(data)
        return then(data) if start in seen else data

    return line


def test_every_file_lands_byte_for_byte_and_the_board_restarts(folder, tmp_path):
    """The command tells that it is done; nothing but the folder's files is on the board."""
    with Board(tmp_path) as board:
        done = CliRunner().invoke(app, ["boards", "flash", str(folder), "--port", board.port])
        assert done.exit_code == 0, done.output
        assert board.restarted.wait(60)
    assert board.files() == _content(folder)


def test_a_second_time_writes_only_what_changed(folder, tmp_path):
    """A file that is there is not sent again; a changed one replaces the old one."""
    with Board(tmp_path) as board:
        flash(folder, board.port)
    (folder / "shoal/shoal.json").write_bytes(b"short")
    sent = bytearray()
    with Board(tmp_path, line=lambda data: (sent.extend(data), data)[1]) as board:
        flash(folder, board.port)
    assert b"open('shoal/shoal.json','wb')" in sent
    assert sent.count(b"'wb')") == 1
    assert board.files() == _content(folder)


@pytest.mark.parametrize("lost", [b"", None], ids=["hangs", "is-unplugged"])
def test_a_board_that_is_lost_half_way_is_named_and_a_rerun_completes(folder, tmp_path, lost):
    """The error says at which file; what starts the agent is not there before all the rest."""
    with (
        Board(tmp_path, line=_after(b"open('lib/micro/store.mpy','wb')", lambda _: lost)) as board,
        pytest.raises(UnavailableError) as failed,
    ):
        flash(folder, board.port, silence_s=2)
    assert failed.value.code == "board-lost"
    assert "lib/micro/store.mpy was copied, file 3 of 6" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert "main.py" not in board.files()
    with Board(tmp_path) as board:
        flash(folder, board.port)
    assert board.files() == _content(folder)


def test_a_board_that_never_answers_is_one_clear_error_in_limited_time(folder, tmp_path):
    """It is not waited for without end, and nothing is said to have been copied."""
    with (
        Board(tmp_path, line=lambda _: b"") as board,
        pytest.raises(UnavailableError, match="does not answer: is it the right port") as failed,
    ):
        flash(folder, board.port, silence_s=1)
    assert failed.value.code == "board-silent"


def test_a_line_that_spoils_a_byte_is_noticed(folder, tmp_path):
    """What the board has is read back by the board, not believed."""
    with (
        Board(tmp_path, line=lambda data: data.replace(b"\\x00", b"\\x01")) as board,
        pytest.raises(ShoalError) as failed,
    ):
        flash(folder, board.port)
    assert failed.value.code == "flash-differs"
    assert not board.restarted.is_set()


def test_a_full_board_and_a_missing_port_say_what_is_wrong(folder, tmp_path):
    """The board's own words are passed on."""
    with pytest.raises(ShoalError, match="no board on /nowhere: mpremote: failed to access"):
        flash(folder, "/nowhere")
    (folder / "lib/micro/mqtt.mpy").write_bytes(bytes(30_000))
    with Board(tmp_path, blocks=6) as board, pytest.raises(ShoalError) as failed:
        flash(folder, board.port)
    assert failed.value.code == "flash-failed"
    assert "lib/micro/mqtt.mpy was copied, file 2 of 6" in str(failed.value)
    assert "No space left" in str(failed.value)


def test_a_folder_of_something_else_is_refused(tmp_path):
    """Nothing is asked of the board before."""
    with pytest.raises(InputError, match="shoal boards files"):
        flash(tmp_path, "/nowhere")
