"""Draws the diagrams of docs/ as pictures for the site, which loads no script of another host.

Forges draw them by themselves; the site shows docs/pictures/diagram-*.svg in their place, and
the text where that is missing. Run ``python docs/generate_diagrams.py`` after a change of a
diagram. It draws with Chromium and the copy of Mermaid that comes with NiceGUI.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import sys
import threading
from pathlib import Path

import nicegui
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
MERMAID = Path(nicegui.__file__).parent / "elements" / "mermaid" / "dist"
PAGE = """<!doctype html><meta charset="utf-8"><div id="out"></div><script type="module">
const loaded = await import("/index.js");
const mermaid = loaded.mermaid ?? loaded.default;
mermaid.initialize({startOnLoad: false, theme: "neutral", htmlLabels: false,
  flowchart: {htmlLabels: false}, deterministicIds: true});
window.draw = async (text) => (await mermaid.render("d", text)).svg;
window.ready = true;
</script>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves Mermaid, and the page that draws with it."""

    def do_GET(self) -> None:
        """A file of Mermaid's, or the page."""
        if self.path == "/page":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def diagrams() -> dict[Path, str]:
    """The picture of each diagram in docs/, with its text."""
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    found = {}
    for page in sorted(DOCS.rglob("*.md")):
        for match in hooks.DIAGRAM.finditer(page.read_text("utf-8")):
            found[DOCS / hooks.picture(match[1])] = match[1]
    return found


def main() -> None:
    """Draws what is missing, and removes pictures of diagrams that are gone."""
    wanted = diagrams()
    for old in (DOCS / "pictures").glob("diagram-*.svg"):
        if old not in wanted:
            old.unlink()
    handler = functools.partial(_Quiet, directory=MERMAID)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/page")
            page.wait_for_function("() => window.ready === true")
            for target, text in wanted.items():
                drawn = page.evaluate("(text) => window.draw(text)", text)
                target.write_text(drawn + "\n")
                sys.stdout.write(f"{target.name}: {target.stat().st_size} bytes\n")
            browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
