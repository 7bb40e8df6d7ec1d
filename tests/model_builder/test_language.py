"""The teacher reads the language of the texts, whatever it is, where nobody names one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from contracts.errors import InputError
from model_builder.classify.initial import write
from model_builder.classify.plans import _sizes, _sizes_for
from model_builder.data.language import detect
from model_builder.recipes.classify import load, with_encoder
from model_builder.recipes.teachers import ENGLISH, MULTILINGUAL, TeacherConfig

# Of the Universal Declaration of Human Rights.
TEXTS = {
    "en": (
        "Everyone has the right to life, liberty and security of person.",
        "No one shall be subjected to arbitrary arrest, detention or exile.",
        "Everyone has the right to freedom of movement within each state.",
        "Everyone has the right to seek asylum from persecution.",
    ),
    "de": (
        "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
        "Niemand darf willkürlich festgenommen, in Haft gehalten werden.",
        "Jeder hat das Recht, sich innerhalb eines Staates frei zu bewegen.",
        "Jeder hat das Recht, vor Verfolgung Asyl zu suchen.",
    ),
    "fr": (
        "Tout individu a droit à la vie, à la liberté et à la sûreté.",
        "Nul ne peut être arbitrairement arrêté, détenu ou exilé.",
        "Toute personne a le droit de circuler librement dans un pays.",
        "Toute personne a le droit de chercher asile devant la persécution.",
    ),
    "ru": (
        "Каждый человек имеет право на жизнь, на свободу.",
        "Никто не может быть подвергнут произвольному аресту.",
        "Каждый человек имеет право свободно передвигаться.",
        "Каждый человек имеет право искать убежища от преследования.",
    ),
    "ja": (
        "すべて人は、生命、自由及び身体の安全に対する権利を有する。",
        "何人も、ほしいままに逮捕、拘禁、又は追放されることはない。",
        "すべて人は、自由に移転及び居住する権利を有する。",
        "すべて人は、迫害を免れるため避難を求める権利を有する。",
    ),
}


def rows_of(*languages: str, each: int = 10) -> list[tuple[str, str]]:
    """Different texts of two labels, in the languages by turns."""
    return [
        (f"{text} {number}", f"label {number % 2}")
        for number in range(each)
        for language in languages
        for text in TEXTS[language]
    ]


@pytest.mark.parametrize(
    ("languages", "encoder"),
    [
        (("en",), ENGLISH),
        (("de",), MULTILINGUAL),
        (("fr",), MULTILINGUAL),
        (("ru",), MULTILINGUAL),
        (("ja",), MULTILINGUAL),
        (("en", "de"), MULTILINGUAL),
    ],
)
def test_a_recipe_for_a_table_has_the_teacher_of_its_language(
    languages: tuple[str, ...], encoder: tuple[str, str], tmp_path: Path
) -> None:
    """``shoal init`` names it with its digest, and ``auto`` becomes the same one."""
    data, recipe = tmp_path / "rows.csv", tmp_path / "rows.yaml"
    rows = rows_of(*languages)
    with data.open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink).writerows([("text", "label"), *rows])
    write(data, recipe)
    teacher = load(recipe, []).teacher
    assert (teacher.source, teacher.sha256) == encoder
    english = detect([text for text, _ in rows]).english
    left_open = with_encoder(load(recipe, ["teacher={}"]), english=english).teacher
    assert (left_open.source, left_open.sha256) == encoder


def test_texts_without_words_and_a_few_strange_ones_are_read_by_the_teacher_of_english() -> None:
    """A word taken for another language is no second language."""
    assert detect(["12:30", "4711", "..."] * 10).english
    assert detect([text for text, _ in [*rows_of("en", each=30), *rows_of("de", each=2)]]).english


def test_a_teacher_that_is_named_stays_and_a_digest_without_one_is_refused() -> None:
    """A pin is of a file that the recipe names."""
    named = TeacherConfig(source="path:somewhere", sha256="0")
    assert named.reading(english=True) is named
    with pytest.raises(InputError) as caught:
        TeacherConfig(sha256="0").reading(english=True)
    assert caught.value.code == "bad-recipe"


def test_a_student_of_text_without_blanks_reads_single_letters() -> None:
    """Where a word is a letter or two, pieces of three and more letters say next to nothing."""
    for text in ("体验巅峰十大创新概览", *TEXTS["ja"], "เปิดไฟในห้องนั่งเล่น"):
        sizes = _sizes_for([text] * 9, 10)
        assert {size[3] for size in sizes} == {(1, 2), (1, 3)}
        assert [size[:3] for size in sizes] == [size[:3] for size in _sizes(10)]
    for language in ("en", "de", "ru"):
        assert _sizes_for(list(TEXTS[language]), 10) == _sizes(10)
