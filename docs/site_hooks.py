"""What the site has beyond docs/: the pages beside README, and diagrams as pictures.

MkDocs calls these; see ``mkdocs.yml``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
AROUND = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
#: Made when the site is built, by docs/generate_NAME.py.
MADE = ("settings", "api")
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def picture(diagram: str) -> str:
    """The file in docs/pictures that shows a diagram; ``generate_pictures.py`` draws it."""
    return f"pictures/diagram-{hashlib.sha256(diagram.encode()).hexdigest()[:12]}.svg"


def on_files(files: Any, config: Any) -> Any:
    """Takes in the pages beside README: their links into docs/ lose that folder."""
    for name in AROUND:
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    for name in MADE:
        files.append(File.generated(config, f"{name}.md", content=_made(name)))
    return files


def _made(name: str) -> str:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"generate_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.render())


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/ to those pages stay within the site; diagrams are pictures."""
    for name in AROUND:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    up = "../" * page.file.src_uri.count("/")

    def drawn(match: re.Match[str]) -> str:
        file = picture(match[1])
        if not (ROOT / "docs" / file).exists():
            return match[0]
        return f"![A diagram of what the text around it says]({up}{file})"

    return DIAGRAM.sub(drawn, markdown)
