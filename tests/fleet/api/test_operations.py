"""What operators are given: the Grafana dashboard and the compose file match the program."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from cryptography import x509
from typer.testing import CliRunner

from fleet.api import prometheus
from fleet.cli.app import app
from fleet.controller import Controller
from fleet.folder import Fleet
from fleet.identity.authority import hosts_of

ROOT = Path(__file__).resolve().parents[3]


def test_the_grafana_dashboard_asks_only_for_figures_that_exist(controller: Controller) -> None:
    """A renamed figure breaks this test, not somebody's dashboard."""
    document = json.loads((ROOT / "examples" / "grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in document["panels"]
        for target in panel["targets"]
        for name in re.findall(r"shoal_[a-z0-9_]+", target["expr"])
    }
    text = prometheus.render(controller).decode()
    given = set(re.findall(r"^# TYPE (shoal_\S+)", text, re.MULTILINE))
    assert asked <= given
    assert len(asked) >= 10


def test_the_commands_of_the_compose_file_work(tmp_path: Path) -> None:
    """Its setup makes a fleet with certificates and two devices, as written there."""
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert {"database", "mosquitto", "controller", "kitchen", "garden"} <= set(document["services"])
    script = document["services"]["setup"]["command"][0].replace("\\\n", " ")
    folder = tmp_path / "fleet"
    runner = CliRunner()
    lines = [line.split() for line in script.splitlines() if line.strip()]
    assert len(lines) == 3
    for words in lines:
        words = [word.strip('"').replace("$$SHOAL_FLEET", str(folder)) for word in words]
        at = [i for i, word in enumerate(words) if word == "--database"]
        if at:
            words[at[0] : at[0] + 2] = []
        assert words[0] == "shoal"
        result = runner.invoke(app, words[1:], env={"SHOAL_FLEET": str(folder)})
        assert result.exit_code == 0, result.output
    fleet = Fleet.open(folder)
    assert fleet.config.mutual_tls
    for device in ("kitchen", "garden"):
        assert (folder / "devices" / device / "agent.yaml").is_file()
        agent = yaml.safe_load((folder / "devices" / device / "agent.yaml").read_text())
        assert agent["mqtt"]["host"] == "mosquitto"
        assert agent["renewal_url"].startswith("https://controller:8443/"), "the API, by its name"
    for name in ("api", "broker"):
        certificate = x509.load_pem_x509_certificate((folder / "ca" / f"{name}.pem").read_bytes())
        assert {"controller", "mosquitto", "localhost"} <= set(hosts_of(certificate))
    conf = (folder / "broker" / "mosquitto.conf").read_text()
    assert "\nlistener 8883\n" in conf  # on all addresses, of IPv4 and IPv6
    assert "require_certificate true" in conf


def test_no_part_of_the_compose_file_sees_what_is_not_its_own() -> None:
    """Signing keys, tokens and other devices' keys are in the folder of the fleet."""
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    seen: dict[str, list[str]] = {}
    for name, service in document["services"].items():
        for volume in service.get("volumes", []):
            if isinstance(volume, str):
                source, path = volume.split(":")[0], ""
            else:
                source, path = volume["source"], volume.get("volume", {}).get("subpath", "")
            if source == "fleet":
                seen.setdefault(name, []).append(path)
    assert seen == {
        "setup": [""],
        "controller": [""],
        "mosquitto": ["fleet/broker", "fleet/ca/broker"],
        "kitchen": ["fleet/devices/kitchen"],
        "garden": ["fleet/devices/garden"],
    }
