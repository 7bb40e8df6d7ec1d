"""A stick, and files of images: the same installer and the same line, without typing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.errors import InputError
from contracts.release import ReleaseArchive
from fleet.config import FleetConfig
from fleet.folder import Fleet
from fleet.joining import image, stick
from fleet.joining.invitations import Wanted
from fleet.repository import releases
from tests.firmware_configs.test_join import installer
from tests.support.wheels import make_release

PI = "raspberry-pi-5"
LINE = 'echo claim_x_y | sudo python3 -c \'import sys;U="https://x";exec("a: {b}")\''


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet with an address and no release yet."""
    folder = tmp_path_factory.mktemp("stick") / "home"
    return Fleet.init(folder, FleetConfig("home", host="fleet.example.org", mutual_tls=True))


def on_stick(folder: Path, tmp_path: Path) -> Any:
    """The installer of a stick as a module, which writes below a folder."""
    text = (folder / stick.INSTALL).read_text()
    one = installer("https://unused.example.org")
    one.STICK = json.loads(next(r for r in text.split("\n") if r.startswith("STICK = "))[8:])
    one.__file__ = str(folder / stick.INSTALL)
    one.ETC = str(tmp_path)
    one.CONFIG = str(tmp_path / "agent.yaml")
    return one


def test_a_stick_has_all_that_one_board_needs_and_none_for_a_second(
    fleet: Fleet, tmp_path: Path
) -> None:
    """The signed release, its check, and the device's key, which goes off the stick."""
    folder, etc = tmp_path / "stick", tmp_path / "etc"
    etc.mkdir()
    wanted = Wanted("kitchen", PI, {"site": "lyon"}, ["night"])
    with pytest.raises(InputError, match="agent fetch --platform raspberry-pi-5"):
        stick.write(fleet, wanted, folder)
    assert not folder.exists()
    for python in ("cp311", "cp313"):
        archive = make_release(tmp_path / python, "0.9.0", platform="aarch64", python=python)
        releases.publish(fleet.open_repository(), ReleaseArchive.open(archive))
    names = stick.write(fleet, wanted, folder)
    assert len([name for name in names if name.endswith(".zip")]) == 2
    assert (folder / "agent.yaml").stat().st_mode & 0o777 == 0o600
    one = on_stick(folder, etc)
    plan = one.planned(one.stick(), [("aarch64", "cp313", "python3")])
    assert (plan["device"], plan["release"]["python"]) == ("kitchen", "cp313")
    for choice in (("x86-64", "cp313", ""), ("aarch64", "cp312", "")):
        with pytest.raises(one.Stop, match="for another board: it has the agent for aarch64"):
            one.planned(one.stick(), [choice])
    target = tmp_path / "release.zip"
    one.copied(plan["release"], str(target))
    whole = folder / f"{plan['release']['sha256']}.zip"
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(one.Stop, match="is damaged: write the stick again"):
        one.copied(plan["release"], str(target))
    whole.unlink()
    with pytest.raises(one.Stop, match="cannot be read"):
        one.copied(plan["release"], str(target))
    one.identity("kitchen")
    config = yaml.safe_load((etc / "agent.yaml").read_text())
    assert (config["device"], config["labels"]) == ("kitchen", {"site": "lyon"})
    assert "PRIVATE KEY" in config["mqtt"]["tls"]["key"]
    with pytest.raises(InputError, match="was not installed yet"):
        stick.write(fleet, Wanted("cellar", PI), folder)
    one.used_up()
    with pytest.raises(one.Stop, match="another board became kitchen with it"):
        one.identity("kitchen")


def test_images_type_the_line_as_it_is() -> None:
    """cloud-init's file is YAML with the line whole; the script is one, and leaves a service."""
    document = yaml.safe_load(image.of("user-data", LINE))
    assert document["runcmd"][-1].strip() == LINE
    script = image.of("firstrun.sh", LINE)
    assert f"\n{LINE}\n" in script
    assert "systemd.run" in script
    shell = shutil.which("bash")
    assert shell is not None
    subprocess.run([shell, "-n"], input=script.encode(), check=True)
    assert "{line}" not in script
