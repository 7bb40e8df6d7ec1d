"""What the documents tell people to type exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.docs import pages

ROOT = pages.ROOT
#: Of this project, and of the C packs that it writes.
TARGETS = {
    name
    for file in [ROOT / "Makefile", *(ROOT / "model_builder" / "export_c").rglob("Makefile*")]
    for name in re.findall(r"^([\w.-]+):", file.read_text(), re.MULTILINE)
}
#: What stands for words that the reader chooses, or for several commands at once.
ANY = {"...", "COMMAND", "*"}


@cache
def _known() -> dict[str, Any]:
    return pages.generator("commands").commands()  # type: ignore[no-any-return]


def wrong(line: pages.Line) -> str:
    """What is wrong with a command of ours; nothing if it is right or not ours."""
    words = line.words
    while words and re.match(r"^\w+=", words[0]):
        words = words[1:]
    if not words:
        return ""
    words = [Path(words[0]).name if words[0].startswith(".venv") else words[0], *words[1:]]
    if words[0] == "make":
        names = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        return "".join(f"make has no {name}" for name in names if name not in TARGETS | {"X"})
    if words[0] in {"python", "python3"} or words[0].startswith(("benchmarks/", "docs/")):
        return _script(words[1:] if words[0].startswith("python") else words)
    return _ours(words, whole=line.whole) if words[0] in {"shoal", "shoal-agent"} else ""


def _script(words: list[str]) -> str:
    if not words or not words[0].startswith(("benchmarks/", "docs/")) or "NAME" in words[0]:
        return ""
    file = ROOT / words[0]
    if not list(ROOT.glob(words[0])):
        return f"there is no {words[0]}"
    options = [word.split("=")[0] for word in words[1:] if word.startswith("--")]
    text = file.read_text() if file.is_file() else ""
    return "".join(f"{words[0]} has no {name}" for name in options if f'"{name}"' not in text)


def _ours(words: list[str], *, whole: bool) -> str:
    path, rest = words[0], words[1:]
    while rest and f"{path} {rest[0]}" in _known():
        path, rest = f"{path} {rest[0]}", rest[1:]
    command = _known()[path]
    if command is None:
        first = rest[0] if rest else ""
        if not whole and (not first or first in ANY or "|" in first):
            return ""
        if first in {"--help", "--version", "--install-completion"}:
            return ""
        return f"there is no `{path} {first}`"
    given, rest = 0, rest[:]
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            given += 1
            if word in ANY and not whole:
                return ""
            continue
        name, _, value = word.partition("=")
        if name not in command.options:
            return f"`{path}` has no {name}"
        if command.options[name] and not value:
            if not rest and whole:
                return f"`{path}` wants a value after {name}"
            rest = rest[1:]
    if command.most is not None and given > command.most:
        return f"`{path}` takes {command.most} arguments, not {given}"
    return f"`{path}` takes {command.least} arguments, not {given}" if (
        whole and given < command.least
    ) else ""  # fmt: skip


def test_every_command_in_the_documents_exists() -> None:
    """Its name, its options, whether a value follows, and how many arguments it takes."""
    found = [
        f"{line.page}:{line.number}: {problem}: {' '.join(line.words)}"
        for page in pages.pages()
        if page.name != "CHANGELOG.md"  # of versions that are past
        for line in pages.commands(page.read_text(), str(page.relative_to(ROOT)))
        if (problem := wrong(line))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shoal fleet enrol kitchen", "no `shoal fleet enrol`"),
        ("shoal fleet token", "takes 1 arguments, not 0"),
        ("shoal fleet enroll kitchen pantry", "takes 1 arguments, not 2"),
        ("shoal fleet enroll kitchen --bord raspberry-pi-5", "has no --bord"),
        ("shoal fleet query all classify 'a b' --timeout", "a value after --timeout"),
        ("shoal-agent start", "no `shoal-agent start`"),
        ("make everything", "make has no everything"),
        ("benchmarks/agent.py --agent 3", "has no --agent"),
        ("SHOAL_CA=ca.pem .venv/bin/shoal fleet devices --al", "has no --al"),
    ],
)
def test_a_command_that_does_not_exist_is_found(text: str, says: str) -> None:
    """The check itself can fail."""
    line = pages.Line("page", 1, pages.split(text)[0], True)
    assert says in wrong(line)


def test_commands_are_found_wherever_they_are_written() -> None:
    """With prompts, over several lines, in pipes, and in sentences."""
    text = (
        "Say `shoal demo --keep`.\n\n```console\n$ shoal init a.csv \\\n    --out b.yaml  # so\n"
        "output\nkitchen$ cat x | shoal classify out/x\n```\n\n"
        "```sh\nmake demo && shoal demo\n```\n"
        "```\nshoal fleet keys list    (on the controller)\nno command\n```\n"
    )
    assert [" ".join(line.words) for line in pages.commands(text, "page")] == [
        "shoal init a.csv --out b.yaml", "cat x", "shoal classify out/x",
        "make demo", "shoal demo", "shoal fleet keys list", "on the controller",
        "shoal demo --keep",
    ]  # fmt: skip
