"""Releases of the MicroPython agent: compiled for a board, signed as a list of files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from contracts import __version__, codec, release
from contracts import board as boards
from contracts.bundle import sha256_of
from contracts.errors import InputError
from contracts.micro_release import MAX_LIST_BYTES, MicroFile, MicroRelease
from fleet import durable
from fleet.boards.compiler import NATIVE, compile_agent
from fleet.repository import paths
from fleet.repository.releases import Published, signing
from fleet.repository.repository import Repository

_HEADER: Final = 3
_MAGIC: Final = ord("M")


def is_micro(name: str) -> bool:
    """Whether a board profile is of a board with MicroPython."""
    return name in boards.names() and boards.load(name).kind == "micropython"


def code_of(board: str) -> str:
    """mpy-cross's name of a board's native code; what is no board's is taken as such a name."""
    return NATIVE[boards.load(board).architecture] if is_micro(board) else board


def publish(
    repository: Repository, architecture: str, *, version: str = __version__, replace: bool = False
) -> Published:
    """Compiles the agent for boards of an architecture, and signs it.

    Args:
        repository: with the targets key.
        architecture: of a board profile.
        version: that it says it is.
        replace: other files for a version that is signed.

    Raises:
        UnavailableError: ``no-compiler``.
        RefusedError: ``version-taken``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        compiled = compile_agent(architecture, Path(scratch), version)
        content = {file.name: file.read_bytes() for file in sorted(compiled)}
    return sign(repository, _listed(NATIVE[architecture], version, content), content, replace)


def _listed(code: str, version: str, content: dict[str, bytes]) -> MicroRelease:
    heads = [data[:_HEADER] for name, data in content.items() if name.endswith(".mpy")]
    if not heads or any(len(head) < _HEADER or head[0] != _MAGIC for head in heads):
        raise InputError("bad-release", "what mpy-cross wrote is no code of MicroPython")
    sub = max(head[2] & 3 for head in heads)  # of native code; 0 in files without any
    listed = [MicroFile(name, sha256_of(data), len(data)) for name, data in content.items()]
    return MicroRelease(1, release.NAME, version, code, f"mpy{heads[0][1]}{sub}", listed)


def sign(
    repository: Repository, made: MicroRelease, content: dict[str, bytes], replace: bool = False
) -> Published:
    """Signs a release and keeps its files; again with the same bytes changes nothing.

    Raises:
        RefusedError: ``version-taken``.
        InputError: ``too-large``.
    """
    data = codec.encode(made)
    if len(data) > MAX_LIST_BYTES:
        raise InputError("too-large", f"the list of {made.target} has {len(data)} bytes")
    sha256, name = sha256_of(data), made.target
    path = paths.agent_release(name, sha256)
    with signing(repository, name, sha256, len(data), replace=replace, what="files"):
        for one in made.files:
            blob = repository.folder / paths.blob(one.sha256)
            if not blob.is_file():
                durable.write(blob, content[one.file])
        durable.make_folder((repository.folder / path).parent)
        durable.write(repository.folder / path, data)
    size = sum(one.size for one in made.files)
    return Published(name, made.version, made.platform, made.python, sha256, size, path)
