"""What a person does in the queue: say a label, pass over, take it back. Noted in the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import sqlalchemy as sa

from contracts import limits
from contracts.errors import InputError
from fleet.samples import order
from fleet.store import audit, bundles, samples
from fleet.store.entries import Actor
from fleet.store.samples import Text

if TYPE_CHECKING:
    from fleet.controller import Controller

MAX_QUEUE: Final = 100
"""Texts of a queue that are given at once."""


class Queue(msgspec.Struct, frozen=True):
    """What one person should label next.

    Attributes:
        labels: that the newest version has, then new ones that people gave, each in the alphabet.
        items: the most useful first.
        left: texts that are not labelled yet by this person, or by two who agree.
        labelled: texts with a label that most agree on.
        disputed: texts of which two people say different things.
    """

    model: str
    labels: list[str]
    items: list[Text]
    left: int
    labelled: int
    disputed: int


def queue(controller: Controller, model: str, person: str, most: int) -> Queue:
    """The queue of a person.

    Raises:
        InputError: ``no-samples``.
    """
    with controller.store.read() as connection:
        found = samples.texts(connection, model)
        labels = known_labels(connection, model)
    if not found:
        raise InputError(
            "no-samples", f"no device gave hard examples of {model[:64]}: shoal fleet samples ask"
        )
    given = {label for one in found for label in one.votes}
    waiting = order.queue(found, person, len(found))
    return Queue(
        model=model,
        labels=[*labels, *sorted(given - set(labels))],
        items=waiting[:most],
        left=len(waiting),
        labelled=sum(one.label is not None for one in found),
        disputed=sum(one.disputed for one in found),
    )


def known_labels(connection: sa.Connection, model: str) -> list[str]:
    """Labels of the newest version of a model; none, where none is published."""
    for one in bundles.every(connection):
        if one.ref.name == model and one.manifest.classifier is not None:
            return sorted(one.manifest.classifier.labels)
    return []


def check_label(label: str) -> str:
    """A label as it is stored.

    Raises:
        InputError: ``bad-text-label``.
    """
    label = " ".join(label.split())
    if not label or len(label) > limits.MAX_LABEL_CHARS or not label.isprintable():
        raise InputError(
            "bad-text-label",
            f"a label has 1 to {limits.MAX_LABEL_CHARS} characters that can be seen",
        )
    return label


def say(controller: Controller, actor: Actor, model: str, key: str, label: str | None) -> None:
    """Notes what a person says of a text; None: they pass it over.

    Raises:
        InputError: ``no-such-sample``, ``bad-text-label``.
    """
    label = None if label is None else check_label(label)
    now = controller.clock()
    with controller.store.write() as connection:
        if not samples.exists(connection, model, key):
            raise InputError("no-such-sample", f"{model[:64]} has no text {key[:64]!r}")
        samples.say(controller.store, connection, model, key, actor.name[:64], label, now)
        detail = {"key": key} if label is None else {"key": key, "label": label}
        audit.note_by(connection, actor, "samples.label", model, now, **detail)


def unsay(controller: Controller, actor: Actor, model: str, key: str) -> None:
    """Takes back what a person said of a text.

    Raises:
        InputError: ``no-such-sample``; they had said nothing.
    """
    with controller.store.write() as connection:
        if not samples.unsay(connection, model, key, actor.name[:64]):
            raise InputError("no-such-sample", "you have said nothing of this text")
        audit.note_by(connection, actor, "samples.unlabel", model, controller.clock(), key=key)
