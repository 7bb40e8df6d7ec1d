"""The pages that people read, and the commands, links and anchors in them."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOP = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
#: Pages of the site that are made when it is built: see ``docs/site_hooks.py``.
MADE = {DOCS / "settings.md", DOCS / "api.md"}
SHELL = {"console", "sh", "bash", "shell"}
#: ``kitchen$ shoal-agent run``: on which machine, then the command.
PROMPT = re.compile(r"^(?:[\w@.~-]*\$|#) (.*)$")
FENCE = re.compile(r"^ *(```+|~~~+)(.*)$")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^()\s]+)(?: \"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6} (.*?)(?: \{: ?#([\w-]+) ?\})?$")


#: A command in a block without a language: examples of output and files have none either.
OURS = re.compile(r"^ *(shoal|shoal-agent|make|python) [a-z]")
#: A command in a sentence. `make sure` is none: targets stand alone.
MENTION = re.compile(
    r"(?:\w+=\S+ )*(?:(?:shoal|shoal-agent|python3?) |make [\w-]+(?: \w+=.*)?$"
    r"|benchmarks/\w+\.py|docs/generate_\w+\.py)"
)


class Line(NamedTuple):
    """A command as it is written, and where."""

    page: str
    number: int
    words: list[str]
    whole: bool  # a line of a block, not a mention in a sentence


def pages() -> list[Path]:
    """README and its neighbours, and all of docs."""
    return [ROOT / name for name in TOP] + sorted(DOCS.rglob("*.md"))


def generator(name: str) -> ModuleType:
    """The module ``docs/generate_NAME.py``."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"generate_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text: str) -> list[tuple[str, int, list[str]]]:
    """The fenced blocks: language, number of the first line, lines."""
    found: list[tuple[str, int, list[str]]] = []
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if fence:
            if match and match[1].startswith(fence) and not match[2].strip():
                fence = ""
            else:
                found[-1][2].append(line)
        elif match:
            fence = match[1]
            words = match[2].split()
            found.append((words[0] if words else "", number + 1, []))
    return found


def prose(text: str) -> list[tuple[int, str]]:
    """The lines outside blocks, with their numbers."""
    inside: set[int] = set()
    for _, first, lines in blocks(text):
        inside.update(range(first - 1, first + len(lines) + 1))
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if n not in inside]


def split(command: str) -> list[list[str]]:
    """The commands of one line of shell, each as its words."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if set(word) <= set("|&;()"):
            found.append([])
            redirected = False
        elif set(word) <= set("<>"):
            redirected = True
        elif redirected:
            redirected = False
        else:
            found[-1].append(word)
    return [words for words in found if words]


def commands(text: str, name: str) -> list[Line]:
    """Every command line of a page: in blocks, and between backticks."""
    found = []
    for language, first, lines in blocks(text):
        if language and language not in SHELL:
            continue
        prompts = language == "console"
        whole = ""
        for number, line in enumerate(lines, first):
            match = PROMPT.match(line.strip())
            if whole:
                whole += line.strip()
            elif match and prompts:
                whole = match[1]
            elif (language and not prompts and not line.strip().startswith("#")) or (
                not language and OURS.match(line)
            ):
                whole = line.strip()
            if whole.endswith("\\"):
                whole = whole[:-1]
            elif whole:
                found += [Line(name, number, words, True) for words in split(whole)]
                whole = ""
    for number, line in prose(text):
        for code in CODE.findall(line):
            if MENTION.match(code):
                try:
                    found += [Line(name, number, words, False) for words in split(code)]
                except ValueError:  # a quotation mark that is open: a mention cut short
                    found.append(Line(name, number, code.split(), False))
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, where a forge and the site agree on them."""
    found: dict[str, int] = {}
    wanted: set[str] = set()
    for _, line in prose(page.read_text("utf-8")):
        match = HEADING.match(line)
        if not match:
            continue
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).replace("`", "").replace("*", "")
        forge = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        if match[2]:
            wanted.add(match[2])
        elif forge == site and found.setdefault(site, 0) == 0:
            wanted.add(site)
        found[site] = found.get(site, 0) + 1
    return wanted


def links(page: Path) -> list[tuple[int, str]]:
    """The targets of a page's links and pictures, with their lines."""
    return [
        (number, target)
        for number, line in prose(page.read_text("utf-8"))
        for target in LINK.findall(CODE.sub("", line))
    ]
