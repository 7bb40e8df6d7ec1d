"""Hard examples that devices gave, and what people say of them.

A label is of a text, not of a device's sample: what several devices heard is labelled once, and
each person says one thing of it. What two people say differently stays, and is shown.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from contracts import codec, limits
from contracts.answers import FieldSample
from contracts.messages import Lesson
from contracts.text import normalize
from fleet.store import Store
from fleet.store.schema import FIELD_ASK, FIELD_HINT, FIELD_LABEL, FIELD_SAMPLE

ASK_S: Final = 7 * 24 * 3600.0
"""Seconds for which a request goes on, as long as the owners of devices may approve it."""

MAX_TEXTS: Final = 20_000
"""Texts of one model that are read at once, the newest first."""


TAUGHT: Final = "(taught)"
"""In place of a device, of texts that are examples of a lesson."""


class Ask(msgspec.Struct, frozen=True):
    """A request for hard examples of a model, to the devices of a selector."""

    name: str
    model: str
    selector: str
    most: int
    why: str
    by: str
    at: float


class Said(msgspec.Struct, frozen=True):
    """What one person says of a text; no label: passed over."""

    person: str
    label: str | None
    at: float


class Hint(msgspec.Struct, frozen=True):
    """A label that nobody said: the newest version's, or a teacher's. `source`: whose."""

    source: str
    label: str
    confidence: float


class Text(msgspec.Struct, frozen=True):
    """A text with all samples of it, and what people say.

    Attributes:
        key: of the normalised text.
        sample: the one that its devices were least sure of.
        devices: that gave it.
        times: how often it was asked, on all of them.
        meant: right labels by users of devices, with their number.
        said: by people who label, the oldest first.
        corrected: devices whose users said that the answer is wrong.
        hints: what the newest version and a teacher take it for, where they were asked.
        lesson: that devices were taught by it; empty: none.
    """

    key: str
    sample: FieldSample
    devices: list[str]
    times: int
    meant: dict[str, int]
    said: list[Said]
    corrected: int = 0
    hints: list[Hint] = []
    lesson: str = ""

    @property
    def votes(self) -> Counter[str]:
        """Labels, with how many people say them."""
        return Counter(one.label for one in self.said if one.label is not None)

    @property
    def label(self) -> str | None:
        """What most say; None: nobody, or as many say something else."""
        ranked = self.votes.most_common(2)
        if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
            return None
        return ranked[0][0]

    @property
    def disputed(self) -> bool:
        """Whether two people say different things."""
        return len(self.votes) > 1


def key_of(text: str) -> str:
    """Of a text as models see it: case and punctuation aside."""
    return hashlib.sha256(normalize(text).encode("utf-8", "surrogatepass")).hexdigest()[:32]


# Requests. ----------------------------------------------------------------------------------


def add_ask(connection: sa.Connection, ask: Ask) -> None:
    """Remembers a request."""
    connection.execute(FIELD_ASK.insert().values(**msgspec.structs.asdict(ask)))


def asks(connection: sa.Connection, since: float) -> list[Ask]:
    """Requests since a moment, the newest first."""
    query = sa.select(FIELD_ASK).where(FIELD_ASK.c.at >= since).order_by(FIELD_ASK.c.at.desc())
    return [Ask(**row._mapping) for row in connection.execute(query)]


# Samples. -----------------------------------------------------------------------------------


def add(
    store: Store,
    connection: sa.Connection,
    ask: Ask,
    device: str,
    samples: Sequence[FieldSample],
    now: float,
) -> int:
    """Stores samples of one device, each once; at most what was asked for. How many are new."""
    there = connection.scalar(
        sa.select(sa.func.count())
        .select_from(FIELD_SAMPLE)
        .where(FIELD_SAMPLE.c.ask == ask.name, FIELD_SAMPLE.c.device == device)
    )
    new = 0
    for one in samples:
        if one.bundle.name != ask.model or (there or 0) + new >= ask.most:
            continue
        done = connection.execute(
            store.insert(FIELD_SAMPLE)
            .values(
                device=device,
                mark=one.id,
                ask=ask.name,
                model=ask.model,
                key=key_of(one.text),
                received_at=now,
                content=codec.encode(one).decode(),
            )
            .on_conflict_do_nothing()
            .returning(FIELD_SAMPLE.c.id)
        )
        new += done.first() is not None
    return new


def learn(
    store: Store,
    connection: sa.Connection,
    lesson: Lesson,
    texts: Sequence[str],
    person: str,
    now: float,
) -> None:
    """Keeps the examples of a lesson as texts that who taught it has labelled; no long ones."""
    for words in texts:
        if len(words) > limits.MAX_SAMPLE_BYTES:
            continue
        mark = hashlib.sha256(f"{lesson.name}\0{words}".encode("utf-8", "surrogatepass"))
        one = FieldSample(
            id=mark.hexdigest()[:32],
            at=round(now),
            text=words,
            label=lesson.label,
            confidence=0.0,
            bundle=lesson.bundle,
            reasons=["corrected"],
            meant=lesson.label,
        )
        ask = Ask(lesson.name, lesson.bundle.name, "", len(texts), "", person, now)
        add(store, connection, ask, TAUGHT, [one], now)
        say(store, connection, ask.model, key_of(words), person, lesson.label, now)


def unlearn(connection: sa.Connection, lesson: str, person: str) -> int:
    """Forgets the examples of a lesson, and what was said of them by teaching; how many."""
    mine = (FIELD_SAMPLE.c.device == TAUGHT, FIELD_SAMPLE.c.ask == lesson)
    rows = connection.execute(sa.select(FIELD_SAMPLE.c.model, FIELD_SAMPLE.c.key).where(*mine))
    found = rows.fetchall()
    for model, key in found:
        unsay(connection, model, key, person)
        delete(connection, model=model, key=key, device=TAUGHT)
    return len(found)


def texts(connection: sa.Connection, model: str) -> list[Text]:
    """All texts of a model, the newest first."""
    said: dict[str, list[Said]] = {}
    query = sa.select(FIELD_LABEL).where(FIELD_LABEL.c.model == model).order_by(FIELD_LABEL.c.at)
    for row in connection.execute(query):
        said.setdefault(row.key, []).append(Said(row.person, row.label, row.at))
    hints: dict[str, list[Hint]] = {}
    known = sa.select(FIELD_HINT).where(FIELD_HINT.c.model == model).order_by(FIELD_HINT.c.source)
    for row in connection.execute(known):
        hints.setdefault(row.key, []).append(Hint(row.source, row.label, row.confidence))
    samples: dict[str, list[tuple[str, FieldSample]]] = {}
    lessons: dict[str, str] = {}
    rows = connection.execute(
        sa.select(
            FIELD_SAMPLE.c.device, FIELD_SAMPLE.c.key, FIELD_SAMPLE.c.content, FIELD_SAMPLE.c.ask
        )
        .where(FIELD_SAMPLE.c.model == model)
        .order_by(FIELD_SAMPLE.c.received_at.desc(), FIELD_SAMPLE.c.id.desc())
        .limit(MAX_TEXTS)
    )
    for row in rows:
        one = codec.decode(row.content.encode(), FieldSample, what="a stored sample")
        samples.setdefault(row.key, []).append((row.device, one))
        if row.device == TAUGHT:
            lessons[row.key] = row.ask
    return [
        _text(key, found, said.get(key, []), hints.get(key, []), lessons.get(key, ""))
        for key, found in samples.items()
    ]


def _text(
    key: str,
    found: list[tuple[str, FieldSample]],
    said: list[Said],
    hints: list[Hint],
    lesson: str,
) -> Text:
    meant = Counter(one.meant for _, one in found if one.meant is not None)
    return Text(
        key=key,
        sample=min((one for _, one in found), key=lambda one: one.confidence),
        devices=sorted({device for device, _ in found}),
        times=sum(one.times for _, one in found),
        meant=dict(meant.most_common()),
        said=said,
        corrected=len({device for device, one in found if "corrected" in one.reasons}),
        hints=hints,
        lesson=lesson,
    )


def models(connection: sa.Connection) -> dict[str, int]:
    """Models with samples, and how many."""
    query = (
        sa.select(FIELD_SAMPLE.c.model, sa.func.count())
        .group_by(FIELD_SAMPLE.c.model)
        .order_by(FIELD_SAMPLE.c.model)
    )
    return {str(row[0]): int(row[1]) for row in connection.execute(query)}


def exists(connection: sa.Connection, model: str, key: str) -> bool:
    """Whether a model has a text."""
    query = sa.select(FIELD_SAMPLE.c.id).where(
        FIELD_SAMPLE.c.model == model, FIELD_SAMPLE.c.key == key
    )
    return connection.execute(query.limit(1)).first() is not None


def say(
    store: Store,
    connection: sa.Connection,
    model: str,
    key: str,
    person: str,
    label: str | None,
    now: float,
) -> None:
    """What a person says of a text; what they said before is replaced."""
    values = {"label": label, "at": now}
    connection.execute(
        store.insert(FIELD_LABEL)
        .values(model=model, key=key, person=person, **values)
        .on_conflict_do_update(index_elements=["model", "key", "person"], set_=values)
    )


def unsay(connection: sa.Connection, model: str, key: str, person: str) -> bool:
    """Takes back what a person said. False: they had said nothing."""
    done = connection.execute(
        FIELD_LABEL.delete().where(
            FIELD_LABEL.c.model == model, FIELD_LABEL.c.key == key, FIELD_LABEL.c.person == person
        )
    )
    return done.rowcount > 0


def hint(
    connection: sa.Connection, model: str, source: str, hints: Mapping[str, tuple[str, float]]
) -> None:
    """Replaces what a source takes texts for: by key, a label and how sure it is."""
    own = (FIELD_HINT.c.model == model, FIELD_HINT.c.source == source)
    connection.execute(FIELD_HINT.delete().where(*own))
    rows = [
        {"model": model, "key": key, "source": source, "label": label, "confidence": sure}
        for key, (label, sure) in hints.items()
    ]
    if rows:
        connection.execute(FIELD_HINT.insert(), rows)


def unhint(connection: sa.Connection, model: str, sources: Sequence[str]) -> None:
    """Forgets what all sources but these take texts for."""
    connection.execute(
        FIELD_HINT.delete().where(
            FIELD_HINT.c.model == model, FIELD_HINT.c.source.not_in(list(sources))
        )
    )


def delete(
    connection: sa.Connection,
    *,
    model: str | None = None,
    device: str | None = None,
    key: str | None = None,
    before: float | None = None,
) -> int:
    """Deletes samples that meet all conditions, with labels of texts that nobody has any more."""
    given = [
        column == value
        for column, value in (
            (FIELD_SAMPLE.c.model, model),
            (FIELD_SAMPLE.c.device, device),
            (FIELD_SAMPLE.c.key, key),
        )
        if value is not None
    ]
    if before is not None:
        given.append(FIELD_SAMPLE.c.received_at < before)
    done = connection.execute(FIELD_SAMPLE.delete().where(sa.true(), *given))
    if done.rowcount:
        there = sa.select(FIELD_SAMPLE.c.id).where(
            FIELD_SAMPLE.c.model == FIELD_LABEL.c.model, FIELD_SAMPLE.c.key == FIELD_LABEL.c.key
        )
        connection.execute(FIELD_LABEL.delete().where(~sa.exists(there)))
        still = sa.select(FIELD_SAMPLE.c.id).where(
            FIELD_SAMPLE.c.model == FIELD_HINT.c.model, FIELD_SAMPLE.c.key == FIELD_HINT.c.key
        )
        connection.execute(FIELD_HINT.delete().where(~sa.exists(still)))
    return done.rowcount
