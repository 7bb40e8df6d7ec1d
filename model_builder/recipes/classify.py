"""A recipe: one YAML file that says what to build. Unknown keys are refused with the nearest one.

Every field has its default here, and its meaning in the docstring of its section.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from contracts import limits
from contracts.messages import Name, Version
from model_builder.recipes import file as recipe_file
from model_builder.recipes.students import (
    AugmentConfig,
    FitConfig,
    NgramStudentConfig,
    TransformerConfig,
)
from model_builder.recipes.teachers import TeacherConfig
from model_builder.recipes.written import WrittenConfig

Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Lengths = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=8)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the recipe's sections."""


class Columns(Section, frozen=True):
    """Names of the columns in CSV, Parquet or JSONL.

    Attributes:
        text, label: their columns.
        group: rows of one group stay in one split; empty: none.
        labels: with ``labels: several``: columns of 0 and 1, one for each label, in place of
            `label`.
        separator: likewise: what joins the labels in one cell; empty: as the table shows.
    """

    text: str = "text"
    label: str = "label"
    group: str = ""
    labels: Annotated[tuple[str, ...], msgspec.Meta(max_length=limits.MAX_LABELS)] = ()
    separator: str = ""


class DataConfig(Section, frozen=True):
    """Where the text comes from. Give `train`, `source: home-intents`, or `written`.

    Attributes:
        source: ``files``, or ``home-intents``: sampled from Home Assistant's templates.
        train, validation, test: tables of any kind that `shoal init` reads, or a folder for
            each label; what is missing is split off `train`.
        out_of_scope: text that belongs to no label, for the threshold.
        out_of_scope_test: the same, only for the report.
        unlabelled: more text for the teacher to label, beside rows of `train` without a label.
        columns: of the files.
        labels: ``one`` a text, or ``several``: a text may have some, or none; see
            docs/how-to/several-labels.md.
        language: of ``home-intents``, for example ``en``, ``de``, ``ru``.
        sentences: how many ``home-intents`` gives.
        limit: at most so many rows of `train`; 0: all.
        field: texts of devices that people labelled: what `shoal fleet samples export` wrote, or
            a fleet's folder. Those that are kept out to judge by are not learned.
        field_weight: how often each of them counts.
        after: the version that this one follows; it stands in the manifest.
        written: no rows, or few: a model writes them from what the labels mean.
    """

    source: Literal["files", "home-intents"] = "files"
    train: str = ""
    validation: str = ""
    test: str = ""
    out_of_scope: str = ""
    out_of_scope_test: str = ""
    unlabelled: str = ""
    columns: Columns = Columns()
    labels: Literal["one", "several"] = "one"
    language: str = "en"
    sentences: Positive = 14_000
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    field: str = ""
    field_weight: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    after: str = ""
    written: WrittenConfig | None = None


class CleanConfig(Section, frozen=True):
    """What is done to the rows before the split.

    Attributes:
        deduplicate: keep one of the rows with one normalised text.
        conflicts: a text with two labels: ``drop`` all its rows, or ``error``. Where a text may
            have several labels, ``drop`` joins those of its rows.
        noise_report: list rows whose label disagrees with a cross-validated classifier.
    """

    deduplicate: bool = True
    conflicts: Literal["drop", "error"] = "drop"
    noise_report: bool = True


class SplitConfig(Section, frozen=True):
    """Shares split off the training rows where no file is given, by group where there is one."""

    validation: Share = 0.1
    test: Share = 0.2


class StudentConfig(Section, frozen=True):
    """The student: ``auto``, ``ngram`` (microcontrollers), ``transformer`` or ``encoder`` (SBCs).

    Attributes:
        family: which; ``auto`` is an n-gram student whose shape, training and made text are found
            on the validation split, or by cross-validation where rows are few, within
            ``budget.model_bytes`` or else 512 KiB.
        ngram: shape of the n-gram student; ``auto`` finds its own.
        transformer: shape of the small transformer; the encoder takes the teacher's shape.
        lengths: token counts that the model has a signature for (SBCs).
    """

    family: Literal["auto", "ngram", "transformer", "encoder"] = "auto"
    ngram: NgramStudentConfig = NgramStudentConfig()
    transformer: TransformerConfig = TransformerConfig()
    lengths: Lengths = (16, 32, 64)


class DistillationConfig(Section, frozen=True):
    """How the student learns from the teacher.

    Attributes:
        temperature: that softens the teacher's logits.
        hard: weight of the true label where there is one.
        embedding: weight of matching the teacher's sentence embedding; 0: off.
        seeds: students trained with different seeds; the best on validation is kept.
        plain: train one more on the training rows alone, with half the weight on their labels and
            a twelfth of the steps; the best on validation is kept. Made text helps where words
            decide, and harms where their order does.
        augment: teacher-labelled text made from the training rows.
        fit: of the training loop.
    """

    temperature: Annotated[float, msgspec.Meta(gt=0, le=20)] = 1.0
    hard: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    embedding: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    seeds: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    plain: bool = False
    augment: AugmentConfig = AugmentConfig()
    fit: FitConfig = FitConfig()


class QuantisationConfig(Section, frozen=True):
    """How the student becomes int8.

    Attributes:
        samples: texts of the representative set.
        max_loss: the most accuracy, as a ratio, that int8 may lose against float on the test
            split before the build fails; a loss that chance may explain is a warning.
    """

    samples: Positive = 500
    max_loss: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.02


class BudgetConfig(Section, frozen=True):
    """What the model must fit; 0: no bound.

    Attributes:
        boards: profiles that the bundle must fit.
        model_bytes: of the model file.
        arena_bytes: by TensorFlow Lite Micro.
        latency_us: of one text on this machine, model only.
        floor: the least int8 accuracy on the validation split; above 0 several sizes up to the
            recipe's are trained, and the smallest that reaches it and fits is chosen.
    """

    boards: list[Name] = []
    model_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    arena_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    latency_us: Annotated[float, msgspec.Meta(ge=0)] = 0
    floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0


class EvaluationConfig(Section, frozen=True):
    """What the model must reach on the test split, and how the threshold is chosen.

    Attributes:
        floor: the least int8 accuracy on the test split; below it the build fails.
        golden: golden vectors in the bundle.
        golden_texts: ``shipped``: their texts come with the product; ``test``: they are texts of
            the test split, which every device and every mirror of the repository then has.
        reject: share of in-scope texts that the threshold may turn into ``unknown`` when there is
            no out-of-scope text to balance it against.
        folds: with fewer than 1,000 rows the report's figures, the confidences and the threshold
            are cross-validated in so many folds, each a training; 0: never.
    """

    floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0
    golden: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_GOLDEN_VECTORS)] = 64
    golden_texts: Literal["shipped", "test"] = "shipped"
    reject: Share = 0.02
    folds: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5


class Recipe(Section, frozen=True):
    """The whole recipe."""

    name: Name
    schema: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    version: Version = "1.0.0"
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 1
    data: DataConfig = DataConfig()
    clean: CleanConfig = CleanConfig()
    split: SplitConfig = SplitConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    quantisation: QuantisationConfig = QuantisationConfig()
    budget: BudgetConfig = BudgetConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


_PATHS: Final = (
    "train", "validation", "test", "out_of_scope", "out_of_scope_test", "unlabelled", "field",
)  # fmt: skip


def load(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies ``key=value`` changes (``data.sentences=12000``).

    Raises:
        InputError: what :func:`recipe_file.read` and :func:`parse` raise.
    """
    return parse(recipe_file.read(path, changes), path)


def with_encoder(recipe: Recipe, *, english: bool) -> Recipe:
    """The recipe with an encoder named, where it left that to the language of the texts.

    Raises:
        InputError: see :meth:`TeacherConfig.reading`.
    """
    return msgspec.structs.replace(recipe, teacher=recipe.teacher.reading(english=english))


def parse(document: dict[str, Any], path: Path) -> Recipe:
    """The keys and values of the file `path` as a recipe; paths in it are relative to the file.

    Raises:
        InputError: ``unknown-key``, ``bad-recipe``.
    """
    recipe = recipe_file.convert(document, Recipe, str(path))
    resolved = {
        name: str((path.parent / value).resolve())
        for name in _PATHS
        if (value := getattr(recipe.data, name))
    }
    teacher = recipe.teacher
    kind, _, place = teacher.source.partition(":")
    if kind in ("path", "labels"):
        teacher = msgspec.structs.replace(
            teacher, source=f"{kind}:{(path.parent / Path(place).expanduser()).resolve()}"
        )
    data = msgspec.structs.replace(recipe.data, **resolved)
    if data.written is not None:
        data = msgspec.structs.replace(data, written=data.written.resolved(path.parent))
    return msgspec.structs.replace(recipe, data=data, teacher=teacher)
