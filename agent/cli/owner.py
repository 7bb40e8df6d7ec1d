"""``shoal-agent teach`` and ``feedback``: the owner's word to the agent that runs here."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.cli import output
from agent.cli.device import read_config
from agent.serving import door
from contracts import codec, limits, wording
from contracts.errors import InputError
from contracts.requests import FeedbackRequest, Request, TeachRequest

R = TypeVar("R", bound=Request)


def teach(arguments: argparse.Namespace) -> int:
    """Teaches a label, takes a lesson back, or lists what there is."""
    if arguments.label is None and (arguments.text or arguments.lesson):
        raise InputError("bad-options", "examples and --lesson belong to --label")
    given: dict[str, object] = {"slot": arguments.slot}
    if arguments.label is not None:
        texts = arguments.text or _lines()
        name = arguments.lesson or _name(arguments.label, texts)
        given |= {"label": arguments.label, "texts": texts, "lesson": name}
    elif arguments.undo is not None:
        given |= {"action": "undo", "lesson": arguments.undo}
    else:
        given |= {"action": "list"}
    request = _request(given, TeachRequest, "bad-lesson")
    taught = door.ask(_folder(arguments), "teach", request).taught
    assert taught is not None
    if arguments.json:
        output.document(taught)
        return 0
    if not taught.lessons:
        output.line("no lessons are left" if arguments.undo else "nothing was taught")
    output.table(
        [
            one.name,
            one.label,
            f"{one.examples} examples",
            "" if one.serves else f"does not answer: it is for {one.bundle}",
        ]
        for one in taught.lessons
    )
    return 0


def feedback(arguments: argparse.Namespace) -> int:
    """Says whether an answer was right."""
    given: dict[str, object] = {"answer": arguments.answer}
    if arguments.right or arguments.wrong:
        given["right"] = bool(arguments.right)
    elif arguments.text is not None:
        given["text"] = arguments.text
    elif len(arguments.label) == 1:
        given["label"] = arguments.label[0]
    else:
        given["labels"] = arguments.label
    request = _request(given, FeedbackRequest, "bad-feedback")
    noted = door.ask(_folder(arguments), "feedback", request).noted
    assert noted is not None
    if arguments.json:
        output.document(noted)
    else:
        said = "right" if noted.right else "wrong"
        again = ", as was said before" if noted.again else ""
        output.line(f"{noted.label} by {noted.bundle} counts as {said}{again}")
    return 0


def _request(given: dict[str, object], kind: type[R], code: str) -> R:
    try:
        return codec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise InputError(code, f"that cannot be asked: {wording.of(error, kind)}") from None


def _folder(arguments: argparse.Namespace) -> Path:
    config = read_config(arguments.config)
    found: Path = arguments.config.resolve().parent / config.state_dir
    return found


def _lines() -> list[str]:
    """Examples, one a line of standard input."""
    data = sys.stdin.buffer.read(limits.MAX_MESSAGE_BYTES)
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        raise InputError("bad-lesson", "standard input is not UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def _name(label: str, texts: list[str]) -> str:
    """The same lesson has the same name, by `shoal fleet teach` too."""
    content = "\n".join([label, *texts]).encode("utf-8", "surrogatepass")
    return f"lesson-{hashlib.sha256(content).hexdigest()[:8]}"
