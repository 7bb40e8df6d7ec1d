"""Flash that loses power at any operation of an update leaves a device that serves and updates."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts import codec
from contracts.messages import Desired, DesiredBundle, TrialRules
from fleet.repository.repository import Repository
from tests.micro import bundles, device


@pytest.mark.alone
def test_power_may_be_cut_at_every_write_and_erase_of_an_update(short_path):
    """After each cut the device boots, serves one of the two bundles, and completes the update."""
    repository = Repository.create(short_path / "repo", short_path / "keys")
    documents = []
    for number in (1, 2):
        bundle = bundles.write(short_path / str(number), "small", f"1.{number}.0", seed=number)
        ref = repository.publish(bundle)
        slot = DesiredBundle(ref, trial=TrialRules(seconds=0))
        documents.append(
            json.loads(codec.encode(Desired(revision=number, slots={"classify": slot})))
        )
    (short_path / "root.json").write_bytes(repository.root)
    (short_path / "desired.json").write_text(json.dumps(documents))
    with ThreadPoolExecutor(2) as pool:
        parts = list(
            pool.map(
                lambda part: device.run(
                    "powercut.py", str(short_path), str(part), "2", heap="8M", timeout=540
                ),
                range(2),
            )
        )
    operations = parts[0]["operations"]
    assert operations > 50
    assert [part["failed"] for part in parts] == [[], []]
    assert sum(part["tested"] for part in parts) == operations
