"""A tiny generative bundle for all tests of this folder, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.generate.model import GenerativeModel
from contracts.bundle import Bundle
from tests.support.tiny_decoder import tiny_bundle


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle with contexts of 32 and 64 tokens."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny-decoder"))


@pytest.fixture(scope="session")
def float_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a cache of floats, as all bundles had it before."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny-floats"), cache="float32")


@pytest.fixture(scope="session")
def shared_model(bundle_path: Path) -> Iterator[GenerativeModel]:
    """The bundle, loaded once."""
    model = GenerativeModel(Bundle.open(bundle_path))
    yield model
    model.close()


@pytest.fixture
def model(shared_model: GenerativeModel) -> GenerativeModel:
    """The loaded bundle with nothing remembered."""
    shared_model.prefixes.clear()
    shared_model.decoder.truncate(0)
    return shared_model
