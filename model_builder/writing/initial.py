"""A recipe for labels with descriptions and no rows: what ``shoal init`` writes for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contracts.errors import InputError
from contracts.files import typed
from model_builder.data.written import meanings_of

_RECIPE: Final = """\
# A classifier of {count} labels that nobody has rows of: a model writes the text it learns from.
# Build it with: shoal build {recipe}
name: {name}
version: 1.0.0
seed: 1

data:
  written:
    by: {by}
{endpoint}\
    # What the texts are, and in which language: the more exactly, the better they are written.
    about: {about}
    language: en
    per_label: 60
    # What each label means. Labels that are near each other: say what sets them apart.
    labels:{labels}
    # Sentences as people really say them help most; they are sent to who writes:
    # examples: {{{first}: ["...", "..."]}}
    # Answers of the endpoint at most, over all builds with one folder; 0: no bound.
    max_requests: 0
  # Without real rows nobody knows how good it is: 20 of each label tell a lot.
  # test: test.csv

# A sentence encoder learns from the texts, and a small model learns what it answers.
teacher:
  source: auto  # by the language
  mode: finetune
  epochs: 0  # as many as the size of the data allows

# Its features, shape and training are found on the validation split.
student: {{family: auto}}

# The model file, at most 512 KiB; name boards that it must fit: boards: [esp32-s3]
budget: {{model_bytes: 524288}}
"""

_ENDPOINT: Final = """\
    # The key is read from the variable and written nowhere; "" for an endpoint without one.
    endpoint: {{base_url: {url}, api_key_env: {variable}}}
"""


def given(pairs: Sequence[str]) -> dict[str, str]:
    """``LABEL=MEANING`` of the command line.

    Raises:
        InputError: ``bad-option``.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        label, separator, meaning = pair.partition("=")
        if not separator or not label.strip() or not meaning.strip():
            raise InputError(
                "bad-option", f"--describe {pair[:60]!r}: expected LABEL=what it means"
            )
        if label.strip() in found:
            raise InputError("bad-option", f"--describe: {label.strip()[:60]!r} is there twice")
        found[label.strip()] = meaning.strip()
    return found


def compose(
    labels: dict[str, str] | Path, recipe: Path, name: str, by: str, url: str, about: str
) -> str:
    """The recipe as YAML.

    Args:
        labels: what each means, or a table of them, to which the recipe points.
        recipe: where it will be.
        name: of the bundle.
        by: who writes, as in the recipe.
        url: of the endpoint; empty: a place to fill in.
        about: what the texts are; likewise.

    Raises:
        InputError: ``bad-option``, ``bad-recipe``, ``bad-data``.
    """
    kind, _, place = by.partition(":")
    if kind not in ("openai", "bundle") or not place:
        raise InputError(
            "bad-option",
            "labels with descriptions and no texts: name who writes them with --by openai:MODEL "
            "(and --url of its endpoint), or --by bundle:FOLDER of a generative bundle",
        )
    meanings = meanings_of(labels if isinstance(labels, dict) else str(labels))
    if isinstance(labels, dict):
        lines = "".join(f"\n      {_yaml(k)}: {_yaml(v)}" for k, v in meanings.items())
    else:
        there, folder = labels.resolve(), recipe.resolve().parent
        near = there.is_relative_to(folder)
        lines = f" {_yaml(str(there.relative_to(folder) if near else there))}"
    if kind == "bundle":
        by = f"bundle:{Path(place).resolve()}"
    variable = "OPENAI_API_KEY"
    return _RECIPE.format(
        count=len(meanings),
        recipe=typed(recipe.name),
        name=name,
        by=_yaml(by),
        endpoint=_ENDPOINT.format(url=_yaml(url or "http://localhost:8000/v1"), variable=variable)
        if kind == "openai"
        else "",
        about=_yaml(about),
        labels=lines,
        first=_yaml(next(iter(meanings))),
    )


def _yaml(text: str) -> str:
    """A text as a scalar of YAML, which JSON's are."""
    return json.dumps(text, ensure_ascii=False)
