"""Commands on a bundle, without a fleet, run as the programs that they are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.cli import device
from contracts.answers import Classified

TINY = Path(__file__).parents[1] / "data" / "tiny-classifier-1.0.0"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ``shoal-agent``."""
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_an_answer_below_the_threshold_shows_the_label_that_won(tmp_path: Path) -> None:
    """For machines and people; `eval` counts it as it is given, and reads any table."""
    bundle = tmp_path / "unsure"
    shutil.copytree(TINY, bundle)
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    manifest["classifier"]["threshold"] = 1.0
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    run = command("classify", str(bundle), "turn on the light", "--json")
    answer = msgspec.json.decode(run.stdout, type=Classified)
    assert (answer.label, answer.best) == ("unknown", "lights-on")
    assert "unknown (lights-on?)" in command("classify", str(bundle), "turn on the light").stdout
    data = tmp_path / "data.csv"
    data.write_bytes("Satz;Art\nturn on the light;Lights-On\n ;timer\n".encode("utf-16"))
    run = command(
        "eval", str(bundle), "--data", str(data), "--json", "--text", "Satz", "--label", "art"
    )
    found = msgspec.json.decode(run.stdout)
    assert (found["accuracy"], found["accuracy_without_threshold"]) == (0.0, 1.0)
    assert (found["rows_left_out"], found["left_out"][0]["place"]) == (1, "line 3")
    run = command("eval", str(TINY), "--data", str(data), "--text", "Satz", "--label", "Art")
    assert "1 rows of data.csv were left out: 'Satz' is empty (line 3)" in run.stderr
    assert "accuracy, as it answers     100.00%" in run.stdout
    for split, label in (("train", "timer"), ("test", "lights-on")):
        (tmp_path / "split").mkdir(exist_ok=True)
        (tmp_path / "split" / f"{split}.csv").write_text(f"text,label\nturn on the light,{label}\n")
    run = command("eval", str(TINY), "--data", str(tmp_path / "split"))
    assert "of split was read: test.csv" in run.stderr
    assert "accuracy, as it answers     100.00%" in run.stdout


def test_a_file_put_in_place_of_the_installed_one_keeps_the_installed_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after another name; elsewhere, or with a whole path, the file decides."""
    path = tmp_path / "agent.yaml"
    path.write_text("{fleet: home, device: pantry, board: raspberry-pi-5, trust_root: ''}")
    assert device.read_config(path).state_dir == "state"
    monkeypatch.setattr(device, "INSTALLED", path.resolve())
    assert device.read_config(path).state_dir == "/var/lib/shoal"
    path.write_text(path.read_text()[:-1] + ", state_dir: /srv/shoal}")
    assert device.read_config(path).state_dir == "/srv/shoal"
