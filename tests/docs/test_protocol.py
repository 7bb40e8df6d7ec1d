"""The protocol's document says what the contracts say."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_document_is_generated_from_the_contracts() -> None:
    """A change of a message without `python docs/generate_protocol.py` fails here."""
    spec = importlib.util.spec_from_file_location("gen", DOCS / "generate_protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "protocol.md").read_text() == module.render()
