"""Board profiles: what a kind of device can hold and run (``firmware_configs/*.yaml``)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from contracts import codec
from contracts.errors import InputError
from contracts.manifest import Manifest
from contracts.messages import Name

Bytes = Annotated[int, msgspec.Meta(ge=0)]


class Board(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A board profile.

    Attributes:
        name: the file's name without ``.yaml``.
        title: the board's name for people.
        source: where the figures come from (datasheet or product page).
        kind: which agent runs there: ``linux``, ``micropython``, or with ``bare-metal`` none:
            the board takes a C pack into a firmware of its owner's, and joins no fleet.
        architecture: instruction set (``aarch64``, ``armv7l``, ``x86_64``, ``xtensa``, ...).
        cores: of the processor.
        threads: that the agent gives to inference.
        ram_bytes: of the board.
        model_ram_bytes: that a loaded model may take (for a microcontroller: the arena).
        flash_bytes: of the board's storage; 0: an SD card or disk, the device measures it.
        model_flash_bytes: that all kept bundles may take.
        runtimes: that run there, best first.
        quantizations: that they can run.
        relative_speed: single-core speed against the x86-64 core of the reference machine
            (1.0), a rough factor for latency estimates.
    """

    name: Name
    title: str
    source: list[str]
    kind: Literal["linux", "micropython", "bare-metal"]
    architecture: str
    cores: Annotated[int, msgspec.Meta(ge=1)]
    threads: Annotated[int, msgspec.Meta(ge=1)]
    ram_bytes: Bytes
    model_ram_bytes: Bytes
    model_flash_bytes: Bytes
    runtimes: list[Literal["litert", "tflite-runtime", "tflm", "micropython", "c99"]]
    quantizations: list[Literal["int8", "dynamic-int8", "dynamic-int4", "float32"]]
    flash_bytes: Bytes = 0
    relative_speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    notes: str = ""


class Misfit(msgspec.Struct, frozen=True):
    """One reason why a bundle does not fit a board: what was needed and what there is."""

    what: str
    needed: str
    found: str

    def __str__(self) -> str:
        return f"{self.what}: needs {self.needed}, the board has {self.found}"


def names() -> list[str]:
    """The names of all board profiles, sorted."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def _folder() -> Path:
    # importlib.resources reads archives too: its imports are a twentieth of an agent's start.
    spec = find_spec("firmware_configs")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def load(name: str) -> Board:
    """Loads a board profile by name.

    Raises:
        InputError: ``unknown-board`` with the known names.
    """
    if name not in names():
        raise InputError(
            "unknown-board", f"unknown board {name[:80]!r}; known: {', '.join(names())}"
        )
    data = (_folder() / f"{name}.yaml").read_bytes()
    board = codec.convert_yaml(data, Board, what=f"board profile {name}")
    if board.name != name:
        raise InputError("bad-message", f"board profile {name} calls itself {board.name}")
    return board


def load_for_agent(name: str) -> Board:
    """The profile of a board that can be a fleet's device.

    Raises:
        InputError: ``unknown-board``, ``wrong-board``; no agent runs on it.
    """
    board = load(name)
    if board.kind == "bare-metal":
        raise InputError(
            "wrong-board",
            f"no agent runs on {name}, so it cannot join a fleet; "
            "build its firmware's model with `shoal build RECIPE.yaml --export c`",
        )
    return board


def misfits(manifest: Manifest, board: Board) -> list[Misfit]:
    """Why a bundle does not fit a board; empty when it fits.

    Args:
        manifest: of the bundle.
        board: the profile. A device passes one with what it measured of itself.
    """
    found: list[Misfit] = []
    if manifest.model.quantization not in board.quantizations:
        found.append(
            Misfit("quantisation", manifest.model.quantization, ", ".join(board.quantizations))
        )
    small = board.kind != "linux"
    need = manifest.model.arena_bytes if small else manifest.model.peak_rss_bytes
    if small and need is None:
        found.append(Misfit("arena", "operators that TFLite Micro has", "some it lacks"))
    if need is not None and need > board.model_ram_bytes:
        found.append(Misfit("memory", f"{need} bytes", f"{board.model_ram_bytes} bytes"))
    if manifest.total_bytes > board.model_flash_bytes:
        found.append(
            Misfit("storage", f"{manifest.total_bytes} bytes", f"{board.model_flash_bytes} bytes")
        )
    runs_on = set(manifest.model.runtimes)
    if runs_on and not small and not runs_on & set(board.runtimes):
        found.append(Misfit("runtime", " or ".join(sorted(runs_on)), ", ".join(board.runtimes)))
    front_end = manifest.front_end.__struct_config__.tag
    if small and front_end == "base":
        found.append(Misfit("adapters", "a base that takes them", "none"))
    elif small and front_end == "tokenizer":
        found.append(Misfit("front end", "tokenizer", "hashed n-grams, alphabet"))
    elif board.kind == "bare-metal" and front_end != "hashed-ngrams":
        found.append(Misfit("front end", str(front_end), "hashed n-grams"))
    if manifest.boards and board.name not in manifest.boards:
        found.append(Misfit("board", " or ".join(manifest.boards), board.name))
    return found


__all__ = ["Board", "Misfit", "load", "load_for_agent", "misfits", "names"]
