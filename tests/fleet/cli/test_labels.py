"""``shoal fleet label``: the operator's labels by hand, beside what the device says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from typer.testing import CliRunner

from contracts.config import MqttConfig
from contracts.messages import Reported
from fleet.cli.app import app
from fleet.ingest.decode import Message
from fleet.ingest.writer import Writer
from tests.support.served import ServedFleet

RUN = CliRunner()


def _labelled(folder: Path, *arguments: str) -> dict[str, Any]:
    command = ["fleet", "label", *arguments, "--dir", str(folder), "--json"]
    done = RUN.invoke(app, command)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return {key: found[key] for key in ("labels", "groups", "own_labels", "own_groups")}


def test_labels_and_groups_are_changed_one_by_one_and_the_devices_own_stay(
    tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str
) -> None:
    """Given, taken away, looked at; what is no change is named."""
    with ServedFleet(tmp_path / "fleet", mosquitto_broker, name=fleet_name) as served:
        folder = served.fleet.folder
        served.fleet.enroll("kitchen", "raspberry-pi-5", labels={"site": "lyon"}, groups=["a"])
        said = Reported("kitchen", "b", "1", "raspberry-pi-5", "litert", 1.0)
        said = msgspec.structs.replace(said, labels={"site": "oslo"}, groups=["z"])
        store = served.fleet.open_store()
        Writer(store).write([Message("kitchen", said, b"")], 1.0)
        own = {"own_labels": {"site": "oslo"}, "own_groups": ["z"]}
        assert _labelled(folder, "kitchen") == {
            "labels": {"site": "lyon"}, "groups": ["a"], **own
        }  # fmt: skip
        changed = _labelled(folder, "kitchen", "floor=2", "--group", "b", "--group", "c")
        assert changed == {
            "labels": {"site": "lyon", "floor": "2"}, "groups": ["a", "b", "c"], **own
        }  # fmt: skip
        changed = _labelled(folder, "kitchen", "site-", "floor=3=4", "--no-group", "b")
        assert changed == {"labels": {"floor": "3=4"}, "groups": ["a", "c"], **own}
        for wrong, code in (("floor", "bad-label"), ("a/b=c", "bad-name")):
            done = RUN.invoke(app, ["fleet", "label", "kitchen", wrong, "--dir", str(folder)])
            assert done.exit_code == 2 and code in done.stderr
        for selector, found in (("site=oslo", 0), ("own:site=oslo", 1), ("floor=*", 1)):
            listed = RUN.invoke(app, ["fleet", "devices", selector, "--dir", str(folder), "--json"])
            assert len(json.loads(listed.stdout)) == found, selector
        # Enrolled again without a word about them: an operator's labels and groups stay.
        config, _ = served.fleet.enroll("kitchen", "raspberry-pi-5", replace=True)
        assert config.labels == {"floor": "3=4"} and config.groups == ["a", "c"]
        assert _labelled(folder, "kitchen") == changed
        config, _ = served.fleet.enroll(
            "kitchen", "raspberry-pi-5", labels={}, groups=[], replace=True
        )
        assert config.labels == {} and config.groups == []
        store.close()
