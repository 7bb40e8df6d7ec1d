"""A chat endpoint on loopback that writes and labels texts, with faults on order."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SAYINGS = {
    "refund": [
        "please send my {} money back", "i want what i paid for the {} returned",
        "refund the {} to me", "the {} was bad and i would like my euros again",
    ],
    "delivery": [
        "where is the {} that was ordered", "my {} has not arrived",
        "when will the parcel with the {} come", "the courier lost a {} of mine",
    ],
    "praise": [
        "the {} is wonderful", "many thanks for such a good {}",
        "i love this {} very much", "best {} that i ever had",
    ],
}  # fmt: skip
THINGS = [
    "chair", "kettle", "lamp", "jacket", "radio", "carpet", "mirror", "blender", "bicycle", "tent",
    "pillow", "printer", "teapot", "ladder", "violin", "camera", "helmet", "basket", "candle",
]  # fmt: skip
MEANINGS = {
    "refund": "the customer wants money back",
    "delivery": "the customer asks where an order is",
    "praise": "the customer is pleased and says so",
}

Reply = tuple[int, bytes, dict[str, str]]


class Writer:
    """Writes what it is asked for; `faults` are answers that come first, in their order."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.faults: list[Reply] = []
        self.always: Callable[[dict[str, Any]], Reply | None] = lambda body: None
        self.base_url = ""
        self._given: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def wrote(self) -> list[dict[str, Any]]:
        """The requests for text."""
        return [body for body in self.asked if "Label: " in body["messages"][1]["content"]]

    def reply(self, body: dict[str, Any]) -> Reply:
        """The answer to one request."""
        with self._lock:
            self.asked.append(body)
            if self.faults:
                return self.faults.pop(0)
            fixed = self.always(body)
            if fixed is not None:
                return fixed
            return self.answer(body)

    def answer(self, body: dict[str, Any]) -> Reply:
        """What it says when nothing is wrong."""
        return said(json.dumps(self._content(body["messages"][1]["content"])))

    def _content(self, prompt: str) -> Any:
        match = re.search(r"^Label: (.+)$", prompt, re.MULTILINE)
        if match is None:
            return {number: labelled(text) for number, text in json.loads(prompt).items()}
        count = re.search(r"Write (\d+) texts", prompt)
        assert count is not None
        return {"texts": [self._text(match[1]) for _ in range(int(count[1]))]}

    def _text(self, label: str) -> str:
        """The next text of a label; they are all different, for as long as there are some."""
        number = self._given[label] = self._given.get(label, -1) + 1
        sayings = SAYINGS[label]
        return sayings[number % len(sayings)].format(THINGS[number // len(sayings) % len(THINGS)])


def labelled(text: str) -> str:
    """What a good model would say of a text."""
    for label, sayings in SAYINGS.items():
        for saying in sayings:
            if re.fullmatch(re.escape(saying).replace(r"\{\}", ".+"), text):
                return label
    return "none of these"


def said(content: str, **fields: Any) -> Reply:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, **fields}
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return 200, json.dumps({"choices": [choice], "usage": usage}).encode(), {}


@contextmanager
def serving(writer: Writer) -> Iterator[Writer]:
    """Serves `writer` on a port of the kernel's choice."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            writer.keys.append(self.headers["Authorization"])
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, data, headers = writer.reply(body)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # who asked was killed

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    writer.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield writer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_written(folder: Path, writer: Writer, written: Any = None, **sections: Any) -> Path:
    """A recipe whose text `writer` writes; it builds in seconds."""
    document = {
        "name": "shop",
        "seed": 3,
        "data": {
            "written": {
                "by": "openai:some-model",
                "labels": MEANINGS,
                "about": "messages to a shop",
                "per_label": 24,
                "lines": 6,
                "alike": 0.97,
                "endpoint": {"base_url": writer.base_url, "api_key_env": "TEST_KEY"},
                **(written or {}),
            },
        },
        "split": {"validation": 0.2, "test": 0.25},
        "teacher": {"source": "none"},
        "student": {
            "family": "ngram",
            "ngram": {"features": {"buckets": 512, "length": 64}, "dim": 16, "hidden": 16},
        },
        "distillation": {"fit": {"epochs": 8, "batch": 16, "rate": 0.02}},
        "quantisation": {"max_loss": 0.2},
        "evaluation": {"folds": 0},
    }
    document["data"] |= sections.pop("data", {})  # type: ignore[operator]
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({**document, **sections}), encoding="utf-8")  # JSON is YAML
    return path
