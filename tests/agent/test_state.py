"""The state folder: whose it is, and on a disk that takes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from agent.state import StateFolder
from contracts.errors import UnavailableError


def test_a_second_agent_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    """One agent at a time on one folder."""
    first = StateFolder(tmp_path)
    with pytest.raises(UnavailableError, match="another agent runs"):
        StateFolder(tmp_path)
    first.close()
    StateFolder(tmp_path).close()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_in_which_nothing_can_be_made_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What is installed there serves; the session counts in memory."""
    opened = os.open

    def refuse(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    state = StateFolder(tmp_path)
    sessions = [state.next_session() for _ in range(2)]
    assert sessions[0] < sessions[1]
    with pytest.raises(UnavailableError, match="another agent runs"):
        StateFolder(tmp_path)
    state.close()
