"""The settings of a connection."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from contracts.connection import tls_context
from tests.support.certificates import new_tls


def test_a_certificate_needs_no_disk_to_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full or read-only disk there is no place for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")  # none of the system's
    assert tls_context(new_tls()).cert_store_stats()["x509"] == 1
