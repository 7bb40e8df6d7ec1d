"""The controller's program, in which one place fails when it is told to.

``python -m FILE CONTROL fleet serve --dir FOLDER``: the file CONTROL says which place fails, as in
:mod:`tests.support.breaking`. Every device counts as one that may complete and embed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.support.breaking import break_places

PLACES: Final = (
    "fleet.api.routes_queries:build_request",
    "fleet.api.routes_queries:choose",
    "fleet.api.views:answer",
    "fleet.api.openai:request_of",
    "fleet.api.openai:answers_of",
    "fleet.api.openai:_event",
    "fleet.api.openai:_Shape.whole",
    "fleet.api.embeddings:_all",
    "fleet.api.embeddings:_one",
    "fleet.query.ask:Asker.ask",
    "fleet.query.ask:Asker._on_answer",
    "fleet.api.routes_queries:votes",
    "fleet.mqtt.link:Link.publish",
    "fleet.ingest.consumer:decode",
    "fleet.ingest.writer:Writer.write",
    "contracts.codec:encode_given",
    "contracts.codec:convert",
    "contracts.codec:decode",
    "starlette.responses:Response.render",
)
"""``module:name`` of what takes a text, or an answer."""


def main() -> int:
    """The program."""
    control = Path(sys.argv[1])
    break_places(PLACES, control)
    from fleet.api import embeddings, openai_devices
    from fleet.cli.app import app

    openai_devices.candidates = embeddings.candidates = lambda *_: ["d1"]  # type: ignore[assignment]
    sys.argv = ["shoal", *sys.argv[2:]]
    app()
    return 0


if __name__ == "__main__":
    sys.exit(main())
