"""Tells recipes of ``task: generate`` from others, without importing what trains."""

from __future__ import annotations

from pathlib import Path

import yaml

from contracts import limits


def is_generate(path: Path) -> bool:
    """Whether a recipe file says ``task: generate``; False for one that cannot be read."""
    try:
        if path.stat().st_size > limits.MAX_CONFIG_BYTES:
            return False
        document = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("task") == "generate"
