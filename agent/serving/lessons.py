"""What a device was taught: one small file, and the heads that it makes.

Of examples the file has features (:mod:`agent.runtime.lessons`), and no text. It is replaced as a
whole, so a power cut leaves the lessons of before or of after. A lesson belongs to one model, by
the digest of its manifest: while another serves it does not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from agent.runtime.lessons import Features, Head
from agent.system.filesystem import FileSystem, read_if_given, write_durably
from agent.system.log import logger
from contracts import codec, limits
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.messages import BundleRef, Lesson, Name

log = logger(__name__)

FILE: Final = "lessons.json"

MAX_BYTES: Final = 4 * limits.MIB
"""Of the file."""


class Kept(msgspec.Struct, frozen=True):
    """A lesson as it is stored: what is told of it, and the features of its examples."""

    slot: Name
    lesson: Lesson
    examples: Annotated[
        list[Features], msgspec.Meta(min_length=1, max_length=limits.MAX_LESSON_TEXTS)
    ]


class _Document(msgspec.Struct, frozen=True):
    schema: Annotated[int, msgspec.Meta(ge=1, le=1)]
    lessons: Annotated[list[Kept], msgspec.Meta(max_length=limits.MAX_LESSONS)]


class Lessons:
    """The lessons of one device. Safe from any thread.

    Args:
        fs: the disk.
        root: the state folder.
        serves: which bundle serves a slot.
    """

    def __init__(
        self, fs: FileSystem, root: Path, serves: Callable[[str], BundleRef | None]
    ) -> None:
        self._fs = fs
        self._file = root / FILE
        self._serves = serves
        self._lock = threading.Lock()
        self._kept = self._read()
        self._heads: dict[tuple[str, str], Head | None] = {}

    def _read(self) -> list[Kept]:
        try:
            data = read_if_given(self._fs, self._file)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            log.error("lessons unreadable", reason=str(error))
            return []
        try:
            found = codec.decode(data or b"", _Document, what=FILE, cap=MAX_BYTES)
        except InputError as error:
            log.error("lessons damaged: none answers", code=error.code)
            return []
        return found.lessons

    def head(self, slot: str, bundle: BundleRef) -> Head | None:
        """What was taught beside a model; None: nothing."""
        with self._lock:
            if not self._kept:
                return None
            key = (slot, bundle.manifest_sha256)
            if key not in self._heads:
                mine = [one for one in self._kept if _key(one) == key]
                self._heads[key] = (
                    Head([(one.lesson.label, one.examples) for one in mine]) if mine else None
                )
            return self._heads[key]

    def labels(self, slot: str, bundle: BundleRef) -> frozenset[str]:
        """Labels of the lessons beside a model."""
        key = (slot, bundle.manifest_sha256)
        with self._lock:
            return frozenset(one.lesson.label for one in self._kept if _key(one) == key)

    def of(self, slot: str) -> list[Lesson]:
        """The lessons of a slot, the oldest first."""
        serving = self._serves(slot)
        with self._lock:
            return [
                msgspec.structs.replace(one.lesson, serves=one.lesson.bundle == serving)
                for one in self._kept
                if one.slot == slot
            ]

    def add(self, new: Kept) -> None:
        """Keeps a lesson; one that is there already stays. It is on the disk when this returns.

        Raises:
            InputError: ``id-in-use``; another lesson of this model has its name.
            RefusedError: ``too-many-lessons``.
            UnavailableError: ``lesson-not-kept``; the disk takes nothing, and nothing has changed.
        """
        with self._lock:
            name = new.lesson.name
            same = next(
                (o for o in self._kept if (o.slot, o.lesson.name) == (new.slot, name)), None
            )
            if same is not None and _key(same) == _key(new):
                if (same.lesson.label, same.examples) != (new.lesson.label, new.examples):
                    raise InputError(
                        "id-in-use", f"a lesson {name} with other examples is there: undo it first"
                    )
                return
            rest = [one for one in self._kept if one is not same]
            while len(rest) >= limits.MAX_LESSONS:
                # Those of models that are gone make room.
                gone = next((o for o in rest if o.lesson.bundle != self._serves(o.slot)), None)
                if gone is None:
                    raise RefusedError(
                        "too-many-lessons",
                        f"{limits.MAX_LESSONS} lessons are there: undo one, or build the next "
                        "version with their labels",
                    )
                rest.remove(gone)
            self._write([*rest, new])

    def undo(self, slot: str, name: str) -> None:
        """Forgets a lesson; its features are gone from the file when this returns.

        Raises:
            InputError: ``no-such-lesson``.
            UnavailableError: ``lesson-not-kept``; it is there still.
        """
        with self._lock:
            rest = [one for one in self._kept if (one.slot, one.lesson.name) != (slot, name)]
            if len(rest) == len(self._kept):
                raise InputError("no-such-lesson", f"{slot[:64]} has no lesson {name}: list them")
            self._write(rest)

    def _write(self, kept: list[Kept]) -> None:
        try:
            write_durably(self._fs, self._file, codec.encode(_Document(1, kept)))
        except OSError as error:
            raise UnavailableError(
                "lesson-not-kept", f"the device's disk does not take it: {error.strerror}"
            ) from None
        self._kept = kept
        self._heads = {}


def _key(one: Kept) -> tuple[str, str]:
    return one.slot, one.lesson.bundle.manifest_sha256
