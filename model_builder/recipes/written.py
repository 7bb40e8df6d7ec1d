"""The recipe's section on text that a model writes, where there are no rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from contracts import limits
from contracts.errors import InputError
from model_builder.recipes.teachers import EndpointConfig

Count = Annotated[int, msgspec.Meta(ge=0)]

ATTRIBUTES: Final[dict[str, list[str]]] = {
    "length": ["a few words", "one short sentence", "one sentence", "two or three sentences"],
    "tone": ["plain", "polite", "annoyed", "in a hurry", "chatty"],
    "spelling": ["careful", "lower case without punctuation", "a typo or two", "abbreviations"],
    "way": [
        "asks a question",
        "says what happened",
        "says what is wanted",
        "tells it from the side, without the usual words",
    ],
}


class WrittenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training text that a model writes from what the labels mean; `train` may add real rows.

    Attributes:
        by: who writes: ``openai:MODEL`` at `endpoint`, or ``bundle:FOLDER``, a generative bundle
            that is run here.
        labels: what each label means, by label; or a table with the columns label and
            description.
        about: what the texts are, for example ``messages to the support of a bank``.
        language: of the texts, as a code or a name.
        per_label: texts of each label.
        examples: a few texts by label; they are shown to who writes, and learned.
        attributes: how texts differ, values by name; each request draws one value of each.
        check: who else has to see the label in a text: ``writer`` labels each text without
            knowing what it was written for; ``encoder`` is the teacher's encoder, for which the
            label's meaning has to be the nearest, of many labels one of them; ``none``. Empty:
            ``writer`` for ``openai:``, ``encoder`` for ``bundle:``.
        lines: texts asked for in one request.
        rounds: how often is asked at most for what is still missing.
        longest: characters of a text.
        alike: a text that is as like another one of its label is left out; 0 to 1.
        temperature: of the writing.
        max_requests: answers of the endpoint at most, over all runs with one ``OUT/cache``; 0: no
            bound. What was written until then is used, if it is enough.
        max_tokens: read and written by the endpoint, likewise.
        endpoint: for ``openai:``; its ``max_cost`` bounds the writing and the checking.
    """

    by: str
    labels: dict[str, str] | str
    about: str = ""
    language: str = "en"
    per_label: Annotated[int, msgspec.Meta(ge=2, le=5000)] = 60
    examples: dict[str, list[str]] = {}
    attributes: dict[str, list[str]] = msgspec.field(default_factory=lambda: dict(ATTRIBUTES))
    check: Literal["", "writer", "encoder", "none"] = ""
    lines: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10
    rounds: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    longest: Annotated[int, msgspec.Meta(ge=10, le=limits.MAX_TEXT_BYTES // 4)] = 300
    alike: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    max_requests: Count = 0
    max_tokens: Count = 0
    endpoint: EndpointConfig = EndpointConfig()

    @property
    def kind(self) -> str:
        """``openai`` or ``bundle``."""
        return self.by.partition(":")[0]

    @property
    def checked_by(self) -> str:
        """The check, with its default."""
        return self.check or ("writer" if self.kind == "openai" else "encoder")

    def resolved(self, folder: Path) -> WrittenConfig:
        """With the paths in it relative to `folder`.

        Raises:
            InputError: ``bad-recipe`` for what no field alone shows.
        """
        by = _author(self.by, folder, "by")
        if self.kind == "bundle" and self.check == "writer":
            raise InputError(
                "bad-recipe",
                "written.check: writer needs openai:; with bundle: use encoder or none",
            )
        _check_attributes(self.attributes)
        labels = self.labels
        if isinstance(labels, str):
            labels = str((folder / labels).resolve())
        return msgspec.structs.replace(self, labels=labels, by=by)


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt, and what should follow."""

    prompt: str
    completion: str


class WrittenPairsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pairs that a model writes: prompts from a description, then an answer to each.

    Prompts of `path` that have no completion are answered too.

    Attributes:
        by: who writes the prompts: ``openai:MODEL`` at `endpoint`, or ``bundle:FOLDER``.
        about: what the generator does with what is said to it; the more exactly, the better.
        answers: what who answers is told to do; empty: `about`.
        answered_by: who answers, likewise; empty: who writes the prompts.
        examples: a few pairs, or a file of them: shown to who writes and who answers, and learned.
        count: prompts that are written; 0: those of `path` alone are answered.
        language: of the prompts, as a code or a name.
        attributes: how prompts differ, values by name; each request draws one value of each.
        lines: prompts asked for in one request.
        rounds: how often is asked at most for what is still missing.
        longest: characters of a prompt.
        answer_tokens: of an answer; one that is longer is left out.
        alike: a prompt that is as like another one is left out; 0 to 1.
        temperature: of the writing; answers are the most likely ones.
        max_requests: answers of the endpoint at most, over all runs with one ``OUT/cache``; 0: no
            bound.
        max_tokens: read and written by the endpoint, likewise.
        endpoint: for ``openai:``; its ``max_cost`` is a bound too.
    """

    by: str
    about: str
    answers: str = ""
    answered_by: str = ""
    examples: list[Example] | str = []
    count: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 300
    language: str = "en"
    attributes: dict[str, list[str]] = msgspec.field(default_factory=lambda: dict(ATTRIBUTES))
    lines: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10
    rounds: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    longest: Annotated[int, msgspec.Meta(ge=10, le=limits.MAX_TEXT_BYTES // 4)] = 300
    answer_tokens: Annotated[int, msgspec.Meta(ge=4, le=2048)] = 256
    alike: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    max_requests: Count = 0
    max_tokens: Count = 0
    endpoint: EndpointConfig = EndpointConfig()

    def resolved(self, folder: Path) -> WrittenPairsConfig:
        """With the bundles' paths relative to `folder`.

        Raises:
            InputError: ``bad-recipe`` for what no field alone shows.
        """
        by = _author(self.by, folder, "by")
        other = _author(self.answered_by, folder, "answered_by") if self.answered_by else by
        if not self.about.strip():
            raise InputError("bad-recipe", "written.about: say what the generator does")
        _check_attributes(self.attributes)
        return msgspec.structs.replace(self, by=by, answered_by=other)


def _author(by: str, folder: Path, key: str) -> str:
    kind, _, place = by.partition(":")
    if kind not in ("openai", "bundle") or not place:
        raise InputError(
            "bad-recipe", f"written.{key} {by[:80]!r}: expected openai:MODEL or bundle:FOLDER"
        )
    return f"bundle:{(folder / Path(place).expanduser()).resolve()}" if kind == "bundle" else by


def _check_attributes(attributes: dict[str, list[str]]) -> None:
    empty = [name for name, values in attributes.items() if not values]
    if empty:
        raise InputError("bad-recipe", f"written.attributes.{empty[0][:40]} has no values")
