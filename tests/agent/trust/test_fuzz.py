"""Generated metadata: whatever a repository sends, a device refuses it in its own words."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

from agent.trust.client import Trust
from contracts.bundle import sha256_of
from contracts.errors import ShoalError
from contracts.messages import BundleRef
from tests.support.tuf_simulator import NOW, Simulator

EXAMPLES = int(os.environ.get("SHOAL_EXAMPLES", "25"))
REF = BundleRef("noise", "1.0.0", sha256_of(b"{}"))
ROLES = {
    "root": "metadata/2.root.json",
    "timestamp": "metadata/timestamp.json",
    "snapshot": "metadata/2.snapshot.json",
    "targets": "metadata/2.targets.json",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def refresh(repository: Simulator) -> None:
    """A new device reads the repository; only the project's errors may come out."""
    with tempfile.TemporaryDirectory() as folder:
        trust = Trust(Path(folder), repository.first_root, repository.fetch, clock=NOW.timestamp)
        try:
            trust.refresh()
            trust.manifest(REF)
            trust.release(REF)
        except ShoalError as error:
            assert error.code
            assert len(str(error)) < 2000


@pytest.fixture(scope="module")
def honest() -> Simulator:
    """A repository at version 2 of everything."""
    simulator = Simulator()
    simulator.publish_root()
    simulator.add_bundle()
    simulator.publish()
    return simulator


def with_(honest: Simulator, path: str, data: bytes) -> Simulator:
    """The same repository with one file replaced."""
    changed = Simulator()
    changed.served = {**honest.served, path: data}
    return changed


@pytest.mark.parametrize("role", ROLES)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.binary(max_size=2000))
def test_bytes(honest: Simulator, role: str, data: bytes) -> None:
    """Any bytes in the place of a role's metadata."""
    refresh(with_(honest, ROLES[role], data))


@pytest.mark.parametrize("role", ROLES)
@settings(max_examples=EXAMPLES, deadline=None)
@given(document=JSON)
def test_json(honest: Simulator, role: str, document: Any) -> None:
    """Any JSON in the place of a role's metadata."""
    refresh(with_(honest, ROLES[role], json.dumps(document).encode()))


def paths_of(document: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value inside a JSON document."""
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    return [
        path for key, value in inner for path in [(*prefix, key), *paths_of(value, (*prefix, key))]
    ]


@pytest.mark.parametrize("role", ROLES)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_signed_nonsense(role: str, data: st.DataObject) -> None:
    """One field of real metadata replaced, and signed: a thief of the key, or a faulty tool."""
    repository = Simulator()
    repository.publish_root()
    repository.add_bundle()
    repository.publish()
    served = repository.served[ROLES[role]]
    assert isinstance(served, bytes)
    document = json.loads(served)
    path = data.draw(st.sampled_from(paths_of(document["signed"])))
    target = document["signed"]
    for key in path[:-1]:
        target = target[key]
    if data.draw(st.booleans()) and isinstance(target, dict):
        del target[path[-1]]
    else:
        target[path[-1]] = data.draw(JSON)
    try:
        canonical = encode_canonical(document["signed"]).encode()
    except FormatError:
        canonical = b""
    document["signatures"] = [
        {"keyid": signer.public_key.keyid, "sig": signer.sign(canonical).signature}
        for signer in repository.signers[role]
    ]
    repository.served[ROLES[role]] = json.dumps(document).encode()
    refresh(repository)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"signed":{"_type":"root","version":' + b"9" * 400_000 + b"}}",
        b'{"signatures":[],"signed":{"_type":"timestamp","version":1e999}}',
        '{"signatures":[],"signed":"\ud800"}'.encode("utf-8", "surrogatepass"),
        b"\xef\xbb\xbf{}",
        b"null",
    ],
    ids=["deep lists", "deep objects", "huge number", "infinity", "surrogate", "mark", "null"],
)
def test_hostile_documents(honest: Simulator, role: str, hostile: bytes) -> None:
    """Documents that are made to break parsers."""
    refresh(with_(honest, ROLES[role], hostile))
