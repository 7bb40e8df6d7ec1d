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
            label's meaning has to be among the nearest; ``none``. Empty: ``writer`` for
            ``openai:``, ``encoder`` for ``bundle:``.
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
        kind, _, place = self.by.partition(":")
        if kind not in ("openai", "bundle") or not place:
            raise InputError(
                "bad-recipe",
                f"written.by {self.by[:80]!r}: expected openai:MODEL or bundle:FOLDER",
            )
        if kind == "bundle" and self.check == "writer":
            raise InputError(
                "bad-recipe",
                "written.check: writer needs openai:; with bundle: use encoder or none",
            )
        empty = [name for name, values in self.attributes.items() if not values]
        if empty:
            raise InputError("bad-recipe", f"written.attributes.{empty[0][:40]} has no values")
        labels = self.labels
        if isinstance(labels, str):
            labels = str((folder / labels).resolve())
        by = self.by
        if kind == "bundle":
            by = f"bundle:{(folder / Path(place).expanduser()).resolve()}"
        return msgspec.structs.replace(self, labels=labels, by=by)
