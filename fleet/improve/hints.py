"""Suggestions beside texts that wait for a label: by the newest version, and by a teacher.

Both run as programs of their own, on the machine of the fleet's folder. A teacher that is not
there (``openai:``) is sent the texts, as devices gave them: redacted.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from contracts import codec, interpreter
from contracts.errors import InputError, UnavailableError
from contracts.messages import BundleRef
from contracts.redacted import as_said
from fleet import durable
from fleet.folder import Fleet
from fleet.improve import answers
from fleet.improvements import CACHE, FOLDER
from fleet.samples import order
from fleet.store import audit, bundles, samples
from fleet.store.samples import Text

MOST: Final = 1000
"""Texts that get a suggestion, the most useful first."""

MOST_AGAIN: Final = 5000
"""Texts that a new version is asked about."""

_CAP: Final = 64 * 1024 * 1024


class _Found(msgspec.Struct):
    label: str
    confidence: float


class _Said(msgspec.Struct):
    teacher: str
    found: list[_Found]


def suggest(
    fleet: Fleet, model: str, recipe: str | None, changes: Sequence[str], most: int = MOST
) -> dict[str, int]:
    """Asks the newest version, and with a recipe its teacher; by source, texts with a suggestion.

    What was suggested before is replaced.

    Raises:
        InputError: ``no-samples``, ``no-such-bundle``; what the recipe's teacher raises.
        UnavailableError: ``program-failed``.
    """
    with (
        contextlib.closing(fleet.open_store()) as store,
        audit.acting(store, audit.local(), "samples.suggest", model) as act,
    ):
        with store.read() as connection:
            found = samples.texts(connection, model)
            refs = [o.ref for o in bundles.every(connection) if o.ref.name == model]
        if not found:
            raise InputError("no-samples", f"no device gave hard examples of {model[:64]}")
        if not refs:
            raise InputError("no-such-bundle", f"no version of {model[:64]} is published")
        # Whoever labels: what nobody has said anything of, and what people say differently.
        waiting = order.queue(found, "", most)
        made = {f"{order.VERSION}{refs[0].version}": _by_version(fleet, refs[0], waiting)}
        if recipe is not None:
            home = fleet.folder / FOLDER / model
            name, by_teacher = _by_teacher(home, recipe, changes, waiting)
            made[name] = by_teacher
        with store.write() as connection:
            for source, hints in made.items():
                samples.hint(connection, model, source, hints)
            samples.unhint(connection, model, list(made))
        act.detail |= {source: len(hints) for source, hints in made.items()}
    return {source: len(hints) for source, hints in made.items()}


def look_again(fleet: Fleet, ref: BundleRef) -> int:
    """What a new version takes open texts for, in place of what older ones did; how many.

    The queue then asks for what this one does not know. What teachers said stays.

    Raises:
        UnavailableError: ``program-failed``.
    """
    with contextlib.closing(fleet.open_store()) as store:
        with store.read() as connection:
            found = samples.texts(connection, ref.name)
        waiting = order.open_to(found, "")[:MOST_AGAIN]
        if not waiting:
            return 0
        source = f"{order.VERSION}{ref.version}"
        hints = _by_version(fleet, ref, waiting)
        others = {hint.source for one in found for hint in one.hints}
        with (
            audit.acting(store, audit.local(), "samples.suggest", ref.name) as act,
            store.write() as connection,
        ):
            stay = [one for one in others if not one.startswith(order.VERSION)]
            samples.hint(connection, ref.name, source, hints)
            samples.unhint(connection, ref.name, [source, *stay])
            act.detail[source] = len(hints)
    return len(hints)


def _by_version(
    fleet: Fleet, ref: BundleRef, texts: Sequence[Text]
) -> dict[str, tuple[str, float]]:
    with tempfile.TemporaryDirectory(prefix="shoal-suggest-") as folder:
        path = Path(folder) / ref.name
        answers.taken_out(fleet.open_repository(), ref, path)
        said = answers.given(path, [as_said(one.sample.text) for one in texts])
    return {
        text.key: (one.best or one.label, one.confidence)
        for text, one in zip(texts, said, strict=True)
        if (one.best or one.label) != "unknown"
    }


def _by_teacher(
    home: Path, recipe: str, changes: Sequence[str], texts: Sequence[Text]
) -> tuple[str, dict[str, tuple[str, float]]]:
    durable.make_folder(home)
    command = interpreter.module("model_builder", "suggest", recipe, "--cache", str(home / CACHE))
    for change in changes:
        command += ["--set", change]
    asked = codec.encode([as_said(one.sample.text) for one in texts])
    done = subprocess.run(command, input=asked, capture_output=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UnavailableError(
            "program-failed", f"the teacher of {recipe}: {lines[-1][-400:] if lines else '?'}"
        )
    said = codec.decode(done.stdout, _Said, what="the teacher's labels", cap=_CAP)
    if len(said.found) != len(texts):
        raise UnavailableError("program-failed", "the teacher did not label each text")
    hints = {
        text.key: (one.label, one.confidence) for text, one in zip(texts, said.found, strict=True)
    }
    return f"teacher {said.teacher}"[:64], hints
