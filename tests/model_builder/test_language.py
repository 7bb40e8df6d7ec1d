"""The teacher reads the language of the texts, whatever it is, where nobody names one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.errors import InputError
from contracts.labelled.rows import Row
from model_builder.classify.initial import write
from model_builder.classify.plans import Limits, _fitted_plans, _sizes, _sizes_for
from model_builder.data.language import Writing, detect, writing
from model_builder.data.noise import noise_report
from model_builder.recipes.classify import load, with_encoder
from model_builder.recipes.teachers import ENGLISH, MULTILINGUAL, TeacherConfig
from model_builder.several.learn import _wide
from model_builder.several.peer import OneVsRest
from model_builder.teachers.counted import CountedTeacher

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


KOREAN = "정말 재미있는 영화였어요"
AMHARIC = "ማንቸስተር ሲቲ ድል ተቀዳጅቷል"


def test_letters_that_are_syllables_make_short_pieces() -> None:
    """Hangul's letters are two or three sounds, Ethiopic's are two."""
    for text, written, pieces, words in (
        (KOREAN, Writing.HANGUL, (1, 2), 0.7),
        (AMHARIC, Writing.ETHIOPIC, (2, 3), 0.7),
        ("体验巅峰十大创新概览", Writing.UNPARTED, (1, 2), 0.3),
        (TEXTS["ru"][0], Writing.ALPHABET, (3, 5), 1.4),
    ):
        texts = [text] * 9
        assert writing(texts) is written
        found = _fitted_plans(texts, 3, Limits(512_000, 0), made=9)
        features = [plan.shape.features for plan in found]
        assert {(one.char_min, one.char_max) for one in features} == {pieces}
        assert {plan.linear.words for plan in found if plan.linear is not None} == {words}
        (wide,) = _wide(texts, 30, Limits(512_000, 0))
        assert (wide.shape.features.char_min, wide.shape.features.char_max) == pieces
        assert wide.linear is not None
        assert wide.linear.words == words
        if written is not Writing.ALPHABET:
            longest = max(size[3][1] for size in _sizes_for(texts, 10))
            assert longest == 3
        long = [" ".join([text] * 300)] * 9
        if written in (Writing.HANGUL, Writing.ETHIOPIC):
            found = _fitted_plans(long, 3, Limits(512_000, 0), made=9)
            assert {plan.shape.features.char_max for plan in found} == {0, pieces[1]}


def _said(count: int, seed: int) -> tuple[list[str], NDArray[np.int64]]:
    """Lines of letters without blanks; which of two letters is among them is the label."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, count)
    others = [chr(0x4E00 + n) for n in range(60)]
    texts = []
    for target in targets:
        letters = [*rng.choice(others, 11), "龍鳳"[target]]
        texts.append("".join(rng.permutation(letters)))
    return texts, targets


def test_a_wrong_label_is_found_by_a_syllable_within_a_word() -> None:
    """Few of these words stand twice; one of its three syllables tells the label."""
    rng = np.random.default_rng(0)
    rows = []
    for number, target in enumerate(rng.integers(0, 2, 800)):
        words = ["".join(chr(0xAC00 + n) for n in rng.integers(0, 60, 3)) for _ in range(3)]
        words[1] = words[1][0] + "좋싫"[target] + words[1][2]
        rows.append(Row(" ".join(words), "ab"[target], place=str(number)))
    rows[7] = Row(rows[7].text, "ba"["ab".index(rows[7].label)], place="the wrong one")
    assert "the wrong one" in [found["place"] for found in noise_report(rows, 0)][:3]


def test_what_is_fitted_to_text_without_blanks_reads_single_letters_too() -> None:
    """It is what a person would have used; a phrase between two marks is no word."""
    bounds, lines = Limits(512_000, 0), _said(40, 0)[0]
    for texts, pieces, words in ((lines, (1, 2), 0.3), (list(TEXTS["en"]), (3, 5), 1.4)):
        found = _fitted_plans(texts, 3, bounds, made=9)
        features = [plan.shape.features for plan in found]
        assert {(one.char_min, one.char_max) for one in features} == {pieces}
        assert {plan.linear.words for plan in found if plan.linear is not None} == {words}


def test_counted_pieces_of_text_without_blanks_tell_labels_and_wrong_ones() -> None:
    """By the teacher that counts, by the one for several labels, and where labels are doubted."""
    texts, targets = _said(400, 1)
    new, wanted = _said(100, 2)
    counted = CountedTeacher(2)
    counted.train(texts, targets)
    assert (counted.shares(new).argmax(axis=1) == wanted).mean() > 0.9
    several = OneVsRest(2)
    several.train(texts, np.eye(2, dtype=bool)[targets])
    assert (several.shares(new).argmax(axis=1) == wanted).mean() > 0.9
    rows = [Row(text, "ab"[t]) for text, t in zip(texts, targets, strict=True)]
    rows[7] = Row(rows[7].text, "ba"[targets[7]], place="the wrong one")
    assert [found["place"] for found in noise_report(rows, 0)] == ["the wrong one"]
