"""The file of a recipe, before it is known what it builds: YAML, changes, unknown keys.

Nothing here imports TensorFlow: what is wrong with a recipe is told at once.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from contracts import codec, files, wording
from contracts.errors import InputError

T = TypeVar("T")

Kind = Literal["classify", "generate", "status-lines", "tune"]


def read(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The keys and values of a recipe, after ``key=value`` changes (``data.sentences=12000``).

    Raises:
        InputError: ``no-such-file``, ``too-large``, ``bad-recipe``, ``bad-option``.
    """
    raw = files.read_small(path, what="the recipe")
    try:
        document = codec.load_yaml(raw, what=f"recipe {path}")
    except InputError as error:
        raise InputError("bad-recipe", str(error)) from None
    if not isinstance(document, dict):
        raise InputError("bad-recipe", f"recipe {path}: expected keys and values")
    for one in changes:
        change(document, one)
    return document


def kind_of(document: dict[str, Any]) -> Kind:
    """What a recipe builds: a classifier, a generator from nothing or from a base, a tiny one."""
    student = document.get("student")
    if document.get("task") == "generate" and isinstance(student, dict) and "base" in student:
        return "tune"
    if document.get("kind") == "status-lines":
        return "status-lines"
    return "generate" if document.get("task") == "generate" else "classify"


def convert(document: dict[str, Any], kind: type[T], what: str) -> T:
    """Keys and values as a recipe of a kind.

    Args:
        document: see :func:`read`.
        kind: a msgspec structure.
        what: it is, for the message.

    Raises:
        InputError: ``unknown-key`` with the nearest known one, if any is near; ``bad-recipe``.
    """
    later = codec.newer(document, kind, what)
    if later is not None:
        raise later
    _check_keys(document, kind, "")
    try:
        return msgspec.convert(document, type=kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError("bad-recipe", f"{what}: {wording.of(error, kind, document)}") from None


def change(document: dict[str, Any], text: str) -> None:
    """Sets one dotted key, ``key.sub=value``; the value is YAML.

    Raises:
        InputError: ``bad-option``.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise InputError("bad-option", f"expected --set key=value, found {text[:80]!r}")
    *parents, last = key.strip().split(".")
    place = document
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError("bad-option", f"--set {key}: {parent} has no keys below it")
        place = inner
    place[last] = codec.load_yaml(value, what=f"--set {key}")


def _check_keys(document: Any, kind: Any, where: str) -> None:
    """Refuses a key that `kind` lacks, with the nearest one it has."""
    if not isinstance(document, dict):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in document.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key)[:60], list(fields), n=1, cutoff=0.5)
            guess = f"did you mean {where}{near[0]}? Known" if near else "known"
            raise InputError(
                "unknown-key",
                f"unknown key {where}{str(key)[:60]}; {guess} here: {', '.join(fields)}",
            )
        inner = _struct_of(fields[key])
        if inner is not None:
            _check_keys(value, inner, f"{where}{key}.")


def _struct_of(hint: Any) -> type[msgspec.Struct] | None:
    """The section that a field holds, or None for a plain value."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            if (found := _struct_of(part)) is not None:
                return found
    return None
