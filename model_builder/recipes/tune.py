"""Recipes of ``task: generate`` with a pretrained base: pairs in, an adapted model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from contracts import codec
from contracts.errors import InputError
from contracts.messages import Name, Version
from model_builder.recipes import file as recipe_file
from model_builder.recipes.generate import DataSource
from model_builder.recipes.written import WrittenPairsConfig

Matrix = Literal["q", "k", "v", "o", "gate", "up", "down"]


class TuneData(DataSource, frozen=True, forbid_unknown_fields=True):
    """Where the pairs come from.

    Attributes:
        kind: ``pairs`` (a file) or ``home-commands`` (Home Assistant's templates).
        path: of the pairs, relative to the recipe; empty: all are written.
        language, sentences, test: of home commands.
        rephrased: other ways to say the sentences, as a share of them: phrases moved, swapped,
            put in and left out.
        spoken: what people say and no template has ("we are out of milk"), as a share of the
            sentences; English only.
        invented: share of areas, names and free text that are made-up words while training. A
            student from nothing learns to copy by them; a pretrained one can.
        respelt: share of the words of those values that the base spells in another way in the
            answer than in the sentence.
        seed: of the sample and the split.
        repeated: a prompt that a file answers in two ways is refused, or its first answer is
            taken.
        written: few pairs, or none: a model writes prompts and answers them.
    """

    repeated: Literal["refuse", "first"] = "refuse"
    respelt: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    written: WrittenPairsConfig | None = None


class BaseStudent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pretrained base and how it is adapted.

    Attributes:
        base: what ``shoal import`` takes: ``pypi:NAME==VERSION``, a ``.gguf`` file, a folder with
            ``config.json`` and ``*.safetensors``. Paths are relative to the recipe.
        adapt: ``lora`` (small factors beside frozen matrices) or ``full`` (the matrices
            themselves; takes about five times the memory).
        start: folder of an adapter of the same base, rank and targets that training goes on from,
            relative to the recipe; empty: from nothing.
        average: folders of more such adapters, relative to the recipe: the mean of their factors
            and of those that are trained is what is delivered.
        rank: of the factors.
        alpha: their scale is alpha / rank.
        targets: the matrices that change.
        rate: of the optimiser at its highest; 0: 0.001 for ``lora``, 0.00002 for ``full``.
        epochs: times that each pair is seen at most.
        minutes: that the training may take, from start to end; the rate falls so that it ends
            then. 0: no limit.
        batch_tokens: of a step.
        looks: at the validation loss.
        patience: looks without a better loss before training stops.
        half: products in bfloat16; twice as fast where the processor has it.
        context: tokens of prompt and answer together on the device.
        weights: of the bundle, ``int8`` or ``int4``.
    """

    base: str
    adapt: Literal["lora", "full"] = "lora"
    start: str = ""
    average: list[str] = []
    rank: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    alpha: Annotated[float, msgspec.Meta(gt=0, le=1024)] = 16.0
    targets: list[Matrix] = msgspec.field(
        default_factory=lambda: ["q", "k", "v", "o", "gate", "up", "down"]
    )
    rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    epochs: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    minutes: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 0.0
    batch_tokens: Annotated[int, msgspec.Meta(ge=64, le=65536)] = 512
    looks: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 6
    patience: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    half: bool = True
    context: Annotated[int, msgspec.Meta(ge=32, le=8192)] = 512
    weights: Literal["int8", "int4"] = "int8"

    @property
    def scale(self) -> float:
        """Of the factors."""
        return self.alpha / self.rank


class TuneRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pretrained decoder, adapted to pairs of texts.

    Attributes:
        name, version: of the bundle.
        task: ``generate``.
        data: the pairs, or chats.
        student: the base.
        system: a system message before every prompt; empty: the template's own.
        seed: of the split, the start and the order.
        test: pairs that are measured at most, of each kind.
        compare: folders of bundles that answer the same pairs, for example of a student from
            nothing; relative to the recipe.
        handwritten: a file of pairs that are only measured; relative to the recipe.
        constrain: ``prompt-values``, as for students from nothing. None: free output.
    """

    name: Name
    version: Version
    task: Literal["generate"]
    data: TuneData
    student: BaseStudent
    system: str = ""
    seed: int = 0
    test: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100
    compare: list[str] = []
    handwritten: str = ""
    constrain: Literal["prompt-values"] | None = None

    def check(self) -> None:
        """Raises ``InputError`` ``bad-recipe`` for what no field alone shows."""
        if self.data.kind == "pairs" and not (self.data.path or self.data.written):
            raise InputError("bad-recipe", "data.path is needed for pairs, or data.written")
        if self.data.written is not None:
            if self.data.kind != "pairs":
                raise InputError("bad-recipe", "data.written goes with kind: pairs alone")
            self.data.written.resolved(Path())
        targets = self.student.targets
        if not targets or len(set(targets)) != len(targets):
            raise InputError("bad-recipe", "student.targets: expected matrices, each once")
        if (self.student.start or self.student.average) and self.student.adapt != "lora":
            raise InputError(
                "bad-recipe", "student.start and average are adapters: adapt has to be lora"
            )
        if not self.student.base:
            raise InputError("bad-recipe", "student.base is needed: what `shoal import` takes")


def parse(document: dict[str, Any], path: Path) -> tuple[TuneRecipe, bytes]:
    """As :func:`model_builder.recipes.generate.parse`."""
    recipe = recipe_file.convert(document, TuneRecipe, str(path))
    recipe.check()
    if not recipe.student.rate:
        rate = 1e-3 if recipe.student.adapt == "lora" else 2e-5
        student = msgspec.structs.replace(recipe.student, rate=rate)
        recipe = msgspec.structs.replace(recipe, student=student)
    return recipe, codec.encode(recipe)
