"""The page that a build leaves: whole, escaped, readable narrow and dark; two of them compared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from contracts.errors import InputError
from model_builder.classify import advice
from model_builder.classify.compare import compare, differs, read
from model_builder.classify.curve import learning_curve
from model_builder.classify.report import html
from model_builder.data.clean import CleanReport
from model_builder.data.dataset import Dataset, Split
from model_builder.recipes.classify import Recipe
from tests.model_builder.classify.reports import a_report

TINY = Path(__file__).parents[2] / "data" / "tiny-classifier-1.0.0"


def page_of(report: dict[str, Any]) -> str:
    """The page of a report."""
    return html(Recipe(name="helpdesk"), report)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<line />``: closed as it is opened."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_and_runs_nothing() -> None:
    """Every element is closed; texts of the data are text; the only script element is data."""
    page = page_of(a_report())
    parser = _Tags()
    parser.feed(page)
    assert parser.open == []
    assert parser.scripts == 1
    assert "topic &lt;1&gt; &amp; more" in page
    assert "<script>" not in page.replace('<script type="application/json"', "")
    assert not re.search(r"https?:|src=|@import|url\(", page)


@pytest.mark.parametrize("change", ["none", "empty", "two", "many"])
def test_reports_of_all_kinds_are_shown(change: str) -> None:
    """No threshold, no teacher, no confusions, no curve; two labels; more than the table holds."""
    report = a_report(labels={"two": 2, "many": 150}.get(change, 5), skill=1.0)
    if change == "none":
        report["out_of_scope"] |= {"threshold": 0.0, "threshold_interval": None}
        report["out_of_scope"]["chosen_by"] = "off: with 30 rows it could refuse a lot"
        del report["accuracy"]["teacher"], report["search"]
        report["learning_curve"] = {"points": [], "doubling": None}
    if change == "empty":
        for name in ("left_out", "conflicts", "duplicate_rows", "suspected_label_noise"):
            report["data"][name] = []
        report |= {"wrong": [], "layers": [], "students": [], "runtimes": None}
        report["data"]["warnings"] = []
        report["auto"] = {"why": "it won", "rounds": [[{"plan": "a", "validation": 0.9}]]}
    page = page_of(report)
    assert ("it could refuse a lot" in page) == (change == "none")
    assert ("it won" in page) == (change == "empty")
    assert ("of 150." in page) == (change == "many")
    assert "None" not in page.partition('<script type="application/json"')[0]


def test_a_browser_shows_the_page_narrow_and_dark(tmp_path: Path) -> None:
    """At 360 px nothing is wider than the screen; in the dark its ground is dark."""
    path = tmp_path / "report.html"
    path.write_text(page_of(a_report(labels=20)), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
        failed: list[str] = []
        page.on("request", lambda request: failed.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = [int(part) for part in re.findall(r"\d+", ground)]
        page.emulate_media(color_scheme="light")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(dark) < 60 < 200 < min(int(part) for part in re.findall(r"\d+", ground))
        page.get_by_text("Every label").click()
        assert page.get_by_role("columnheader", name="recall").is_visible()
        browser.close()
    assert failed == [path.as_uri()]


def test_labels_that_are_taken_for_one_another_stand_together() -> None:
    """Each beside the one that it exchanges answers with."""
    report = a_report(labels=12)
    order = advice.by_cluster(np.array(report["confusion"]["matrix"])).tolist()
    assert sorted(order) == list(range(12))
    for label in range(6):
        assert abs(order.index(label) - order.index(label + 6)) == 1


def test_the_advice_names_what_it_confuses_and_what_to_label_next() -> None:
    """The label with most errors first, with what it is taken for and how few rows it has."""
    report = a_report(labels=3, skill=1.0)
    report["confusion"]["matrix"] = [[40, 0, 0], [9, 30, 1], [0, 0, 40]]
    (first, second) = advice.confusions(report)
    assert (first.label, first.answer, first.times, first.of) == (
        "topic <1> & more",
        "topic 0",
        9,
        40,
    )
    assert second.answer == "topic 2"
    wish = advice.label_next(report)[0]
    assert wish.label == "topic <1> & more"
    assert wish.why == "10 of 40 missed, most as topic 0; 30 training rows"


def test_the_curve_tells_whether_more_rows_would_help() -> None:
    """Words that each name their label need few rows; words that are all different many."""

    def curve(texts: list[tuple[str, int]]) -> dict[str, Any]:
        cut = len(texts) * 3 // 4
        train, held = (
            Split([t for t, _ in part], np.array([n for _, n in part]))
            for part in (texts[:cut], texts[cut:])
        )
        dataset = Dataset(
            ["a", "b"], train, held, Split([], np.zeros(0, int)), [], [], [], CleanReport(), ""
        )
        return learning_curve(dataset, 1)

    rng = np.random.default_rng(1)
    easy = [(f"say {'yes' if n % 2 else 'no'} number {n}", n % 2) for n in range(400)]
    assert curve(easy)["doubling"] < 0.01
    names = [f"{rng.integers(1 << 40):x}" for _ in range(120)]
    hard = [(f"{names[i]} {names[j]}", (i + j) % 2) for i, j in rng.integers(0, 120, (800, 2))]
    points = curve(hard)["points"]
    assert [point["rows"] for point in points] == [75, 150, 300, 600]
    assert curve(easy[:20]) == {"points": [], "doubling": None}


def test_two_builds_are_compared_by_every_figure_and_label(tmp_path: Path) -> None:
    """From JSON, HTML, a folder or a bundle; what is within chance is called so."""
    a, b = a_report(skill=0.7), a_report(skill=0.9, seed=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "a.json").write_text(json.dumps(a))
    (tmp_path / "a.html").write_text(page_of(a))
    (tmp_path / "b" / "helpdesk-1.0.0-report.json").write_text(json.dumps(b))
    assert read(tmp_path / "a.html") == json.loads(json.dumps(a))
    found = compare(read(tmp_path / "a.html"), read(tmp_path / "b"))
    figures = {row.name: row for row in found.figures}
    right = figures["right, as it answers"]
    assert right.sure
    assert (right.a, right.b) == (a["headline"]["accuracy"], b["headline"]["accuracy"])
    assert figures["model"].sure is None
    assert {row.name for row in found.labels} == set(a["confusion"]["labels"])
    assert found.labels[0].a != found.labels[0].b
    alone = compare(read(TINY), read(tmp_path / "a.json"))
    assert any(row.name == "model" and row.a for row in alone.figures)
    assert differs(0.9, 0.91, 400, 400) is False
    assert differs(0.8, 0.9, 400, 400) is True
    done = subprocess.run(
        [sys.executable, "-m", "model_builder", "compare", tmp_path / "a.json", tmp_path / "b"],
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    assert "right, as it answers" in done.stdout
    assert "sure" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b"{}", "no report"),
        ("a.json", b"[" * 100_000, "no report"),
        ("a.json", b"\xff", "not UTF-8"),
        ("a.html", b"<p>hello", "holds no figures"),
        ("a.shoal", b"PK", "a.shoal"),
        ("none.json", None, "cannot read"),
    ],
)
def test_what_is_no_report_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    """Whatever it is."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read(tmp_path / name)
    with pytest.raises(InputError, match="expected one"):
        read(tmp_path)
