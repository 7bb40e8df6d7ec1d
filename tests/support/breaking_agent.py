"""The agent's program, in which one place fails when it is told to, with all that it was given.

``python FILE CONTROL run --config agent.yaml``: the place whose name is in the file CONTROL raises
an error whose message, and whose locals, hold its arguments; each time it adds a line to
CONTROL.hits. A name with a ``!`` before it raises what is no ``Exception``, as Rust's panics are.
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any, Final

PLACES: Final = (
    "agent.sources.lines:Lines.add",
    "agent.sources.feed:Feed.line",
    "agent.sources.feed:Feed._classify",
    "agent.serving.worker:Worker.submit",
    "agent.serving.worker:Worker.turn",
    "agent.serving.dispatch:Dispatcher.handle",
    "agent.serving.handlers:Answering.classify",
    "agent.serving.handlers:Answering.label",
    "agent.serving.handlers:Answering.shadow",
    "agent.serving.reply:Reply.finish",
    "agent.runtime.classifier:Classifier.classify",
    "agent.runtime.classifier:Classifier.run",
    "agent.runtime.front_end:HashedNgrams.encode",
    "agent.telemetry.spool:Spool.put",
    "contracts.codec:decode",
    "contracts.codec:encode",
)
"""``module:name`` of what takes a text, or makes one of bytes, while an agent runs."""


class Panic(BaseException):
    """As of a library in Rust."""


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return repr([getattr(one, "payload", one) for one in (*args, *kwargs.values())])


def _break(place: str, control: Path) -> None:
    module, _, name = place.partition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    whole = getattr(owner, last)

    @functools.wraps(whole)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        text = given = _given(args, kwargs)  # a local with the text, too
        wanted, _, marker = control.read_text().partition(" ")
        if wanted.lstrip("!") == place and marker in given:
            with control.with_suffix(".hits").open("a") as hits:
                hits.write(place + "\n")
            if wanted.startswith("!"):
                raise Panic(f"called `unwrap()` on {text}")
            raise ValueError(f"cannot work on {text}")
        return whole(*args, **kwargs)

    setattr(owner, last, wrapped)


def main() -> int:
    """The program."""
    control = Path(sys.argv[1])
    for place in PLACES:
        _break(place, control)
    from agent.__main__ import main as agent

    sys.argv = ["agent", *sys.argv[2:]]
    return agent(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
