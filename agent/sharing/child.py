"""``python -m agent.sharing.child``: the owner's patterns on texts, in bounded time and memory.

It reads one JSON document and writes one. Whatever goes wrong, it says nothing.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import warnings
from typing import Final

from agent.children.limits import limit_child
from agent.sharing.redaction import apply

PROCESSOR_S: Final = 5
"""Seconds of the processor, after which the system ends it."""


def main() -> int:
    """Reads, applies, writes."""
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    limit_child()
    warnings.simplefilter("ignore")
    document = json.loads(sys.stdin.buffer.read())
    patterns = [re.compile(one) for one in document["patterns"]]
    found = [apply(one, patterns) for one in document["texts"]]
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
