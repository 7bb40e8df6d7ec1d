"""Recipes of ``task: generate``: pairs in, a small generator out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from contracts import codec
from contracts.errors import InputError
from contracts.messages import Name, Version
from model_builder.recipes import file as recipe_file
from model_builder.recipes.training import TrainOptions


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the pairs come from.

    Attributes:
        kind: ``pairs`` (a file) or ``home-commands`` (Home Assistant's templates).
        path: of the pairs, relative to the recipe.
        language, sentences, test: of home commands.
        rephrased: other ways to say the sentences, as a share of them: phrases moved, swapped,
            put in and left out.
        spoken: what people say and no template has ("we are out of milk"), as a share of the
            sentences; English only.
        invented: share of areas, names and free text that are made-up words while training. A
            student from nothing learns to copy by them; a pretrained one can.
        seed: of the sample and the split.
    """

    kind: Literal["pairs", "home-commands"] = "pairs"
    path: str = ""
    language: str = "en"
    sentences: Annotated[int, msgspec.Meta(ge=100, le=1_000_000)] = 40_000
    test: Annotated[int, msgspec.Meta(ge=10, le=100_000)] = 1500
    rephrased: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    spoken: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    invented: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.85
    seed: int = 0


class StudentShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of the student.

    Attributes:
        vocabulary: pieces of its byte-level BPE at most, fewer where the data has no more; 257:
            plain bytes.
        layers, width, hidden, heads: of the decoder.
        context: tokens of prompt and completion together.
    """

    vocabulary: Annotated[int, msgspec.Meta(ge=257, le=32768)] = 768
    layers: Annotated[int, msgspec.Meta(ge=1, le=24)] = 4
    width: Annotated[int, msgspec.Meta(ge=16, le=1024)] = 128
    hidden: Annotated[int, msgspec.Meta(ge=16, le=4096)] = 320
    heads: Annotated[int, msgspec.Meta(ge=1, le=32)] = 4
    context: Annotated[int, msgspec.Meta(ge=16, le=2048)] = 96


class TeacherSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A teacher that writes the completions of prompts that have none.

    Attributes:
        kind: ``self`` (a generative bundle, run by the agent program) or ``openai`` (an
            OpenAI-compatible endpoint).
        source: path of the bundle, or base URL of the endpoint.
        model: name of the model at the endpoint.
        key_variable: environment variable with the endpoint's key.
        max_tokens: of a completion.
    """

    kind: Literal["self", "openai"]
    source: str
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=2048)] = 64


class GenerateRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small generator, made from pairs of texts.

    Attributes:
        name, version: of the bundle.
        task: ``generate``.
        data: the pairs.
        teacher: None: the pairs are complete.
        student: its size.
        train: how.
        prompt_suffix: text between prompt and completion.
        constrain: ``prompt-values``: known intents and slots, values out of the prompt; the
            completions are JSON like ``{"intent": "TurnOn", "slots": {"area": "attic"}}``. None:
            free output.
    """

    name: Name
    version: Version
    task: Literal["generate"]
    data: DataSource
    teacher: TeacherSource | None = None
    student: StudentShape = StudentShape()
    train: TrainOptions = TrainOptions()
    prompt_suffix: str = "\n"
    constrain: Literal["prompt-values"] | None = None

    def check(self) -> None:
        """Raises ``InputError`` ``bad-recipe`` for what no field alone shows."""
        s = self.student
        if s.width % s.heads or (s.width // s.heads) % 2:
            raise InputError(
                "bad-recipe", f"a width of {s.width} cannot be cut into {s.heads} even heads"
            )
        if self.data.kind == "pairs" and not self.data.path:
            raise InputError("bad-recipe", "data.path is needed for pairs")
        for field in ("language", "sentences", "test", "rephrased", "spoken", "invented"):
            if self.data.kind == "pairs" and getattr(self.data, field) != getattr(
                DataSource(), field
            ):
                raise InputError(
                    "bad-recipe",
                    f"data.{field} is for home-commands; of pairs a tenth is for validation and "
                    "a tenth for the test",
                )
        if not self.prompt_suffix:
            raise InputError("bad-recipe", "prompt_suffix must mark the end of the prompt")


def load(path: Path, changes: Sequence[str] = ()) -> tuple[GenerateRecipe, bytes]:
    """Reads a recipe and applies ``key.sub=value`` changes; see :func:`parse`.

    Raises:
        InputError: what :func:`recipe_file.read` and :func:`parse` raise.
    """
    return parse(recipe_file.read(path, changes), path)


def parse(document: dict[str, Any], path: Path) -> tuple[GenerateRecipe, bytes]:
    """The keys and values of the file `path` as a recipe.

    Returns:
        The recipe, and its canonical JSON, for its digest.

    Raises:
        InputError: ``unknown-key``, ``bad-recipe``.
    """
    recipe = recipe_file.convert(document, GenerateRecipe, str(path))
    recipe.check()
    return recipe, codec.encode(recipe)
