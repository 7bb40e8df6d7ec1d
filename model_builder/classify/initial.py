"""A recipe for somebody's table: what ``shoal init`` writes, and ``shoal build TABLE`` uses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from contracts.errors import InputError
from contracts.files import typed
from model_builder.data.examine import Examined, examine
from model_builder.files import write_atomically
from model_builder.recipes.teachers import ENGLISH, MULTILINGUAL

MOST_TRAINED: Final = 120_000
"""Rows that a recipe for a table trains on; beyond it, hours buy next to nothing."""

MOST_HELD: Final = 10_000
"""Rows of its validation and test splits: enough to tell a third of a point apart."""

USUALLY_HELD: Final = 1_000
"""Rows of its validation split that tell two students apart, where that is no large part."""

_SEVERAL: Final = """\
  # {more} of {rows} texts have several labels: the model gives a text all that it has, or none.
  # labels: one would make each combination a label of its own.
  labels: several
"""

_TEACHER: Final = """\
# A sentence encoder is fine-tuned on the rows, and a small model learns what it answers.
teacher:
  source: {source}  # {why}
  sha256: {sha256}
  mode: finetune
  epochs: 0  # as many as the size of the data allows
"""

_TEACHER_OF_SEVERAL: Final = """\
# One TF-IDF model a label, made of the rows, teaches: sentence encoders teach one label a text.
teacher: {source: none}
"""

_RECIPE: Final = """\
# A classifier of the texts in {file}: {rows} rows, {labels} labels.
# Build it with: shoal build {recipe}
name: {name}
version: 1.0.0
seed: 1

data:
  train: {train}
  columns: {columns}
{several}{limit}\
# With a file of your own for the test: test: test.csv. Texts that belong to no label, so that the
# model learns to say that it does not know: out_of_scope: other.csv.

split: {{validation: {validation}, test: {test}}}

{teacher}
# Its features, shape and training are found on the validation split.
student: {{family: auto}}

quantisation: {{max_loss: 0.02}}
# The model file, at most 512 KiB; name boards that it must fit: boards: [esp32-s3]
budget: {{model_bytes: 524288}}
"""


def recipe_name(path: Path) -> str:
    """A legal bundle name from a file's."""
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:60]
    return name or "classifier"


def write(data: Path, recipe: Path, text: str = "", label: str = "") -> list[str]:
    """Reads a table and writes a recipe for it.

    Args:
        data: the table.
        recipe: the file to write; it must not be there.
        text: its column of texts; empty: by its usual names.
        label: its column of labels; likewise.

    Returns:
        Notes for a person: what was assumed and what was left out.

    Raises:
        InputError: what is wrong with the table; ``file-exists``.
    """
    if recipe.exists():
        raise InputError("file-exists", f"{recipe} is there already; name another with --out")
    content, notes = compose(data, recipe, text, label)
    write_atomically(recipe, content.encode())
    return notes


def compose(data: Path, recipe: Path, text: str = "", label: str = "") -> tuple[str, list[str]]:
    """The recipe of a table as YAML, and notes; see :func:`write`."""
    found = examine(data, text or "text", label or "label")
    rows = found.rows
    source, sha256 = ENGLISH if found.language.english else MULTILINGUAL
    why = "reads English" if found.language.english else "reads many languages"
    teacher = _TEACHER.format(source=source, why=why, sha256=sha256)
    content = _RECIPE.format(
        file=" ".join(data.name.split()),  # in a comment
        rows=rows,
        labels=found.labels,
        recipe=typed(" ".join(recipe.name.split())),
        name=recipe_name(data),
        train=json.dumps(_place(data, recipe)),
        columns=_columns(found),
        several="" if found.several is None else _SEVERAL.format(more=found.joined_rows, rows=rows),
        teacher=teacher if found.several is None else _TEACHER_OF_SEVERAL,
        limit=f"  limit: {MOST_TRAINED}  # of {rows} rows: more take hours and teach little\n"
        if rows > MOST_TRAINED
        else "",
        validation=_share(min(0.15, max(0.05, float(f"{USUALLY_HELD / rows:.2g}"))), rows),
        test=_share(0.2, rows),
    )
    return content, found.notes


def _columns(found: Examined) -> str:
    """The columns as YAML; of 0 and 1 each label's own."""
    named = {"text": json.dumps(found.columns.text)}
    several = found.several
    if several is not None and several.columns:
        named["labels"] = f"[{', '.join(map(json.dumps, several.columns))}]"
    else:
        named["label"] = json.dumps(found.columns.label)
    if several is not None and several.separator:
        named["separator"] = json.dumps(several.separator)
    return f"{{{', '.join(f'{name}: {value}' for name, value in named.items())}}}"


def _place(data: Path, recipe: Path) -> str:
    """Where the recipe finds the table: relative where both can be moved together."""
    there, folder = data.resolve(), recipe.resolve().parent
    return str(there.relative_to(folder) if there.is_relative_to(folder) else there)


def _share(share: float, rows: int) -> float:
    """A share of the rows, of at most :data:`MOST_HELD` rows."""
    return min(share, float(f"{MOST_HELD / rows:.2g}"))
