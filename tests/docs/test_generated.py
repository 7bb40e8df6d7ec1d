"""Documents that are generated say what the code says."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["protocol", "commands"])
def test_a_document_is_what_its_generator_writes(name: str) -> None:
    """A message, command or setting that changed without its document fails here.

    Run ``python docs/generate_NAME.py``.
    """
    spec = importlib.util.spec_from_file_location(name, DOCS / f"generate_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / f"{name}.md").read_text() == module.render()


def test_the_picture_is_what_its_script_draws() -> None:
    """Run ``python docs/generate_pictures.py``."""
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "generate_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text() == module.render()
