"""Release archives of the agent: what is whole is read, what is hostile is refused in one line."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import limits, release
from contracts.errors import InputError
from contracts.release import ReleaseArchive
from tests.support.wheels import make_release, make_wheel


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A whole archive."""
    return make_release(tmp_path, "0.9.0")


def _rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """A copy with another list or other entries; None as an entry's bytes leaves it out."""
    with zipfile.ZipFile(path) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    listed = msgspec.json.decode(entries.pop(release.RELEASE))
    change(listed, entries)
    target = path.with_name("changed.zip")
    with zipfile.ZipFile(target, "w") as sink:
        sink.writestr(release.RELEASE, msgspec.json.encode(listed))
        for name, data in entries.items():
            sink.writestr(name, data)
    return target


def test_what_was_written_is_read_and_extracted(archive: Path, tmp_path: Path) -> None:
    """Every wheel comes out as it went in, and the target's name says what it is."""
    opened = ReleaseArchive.open(archive, platform="x86-64", python="cp311")
    opened.verify()
    opened.extract(tmp_path / "out")
    for wheel in (tmp_path / "wheels-0.9.0").iterdir():
        assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()
    assert opened.release.target == "agent/0.9.0/x86-64-cp311.zip"
    assert release.parse_target(opened.release.target) == ("0.9.0", "x86-64", "cp311")


def test_writing_twice_gives_the_same_bytes(archive: Path) -> None:
    """The same wheels are one signed target."""
    before = archive.read_bytes()
    again = make_release(archive.parent, "0.9.0")
    assert again.read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        "agent/1.2/x86-64-cp311.zip",
        "agent/1.2.3/riscv-cp311.zip",
        "agent/1.2.3/x86-64-cp27.zip",
        "agent/../x86-64-cp311.zip",
        "agent/1.2.3/x86-64-cp311.zip/",
        "bundles/a/1.0.0/manifest.json",
    ],
)
def test_other_targets_are_no_releases(name: str) -> None:
    """A name that is not of the fixed form is not read as a release."""
    assert release.parse_target(name) is None


def test_a_release_for_another_board_is_refused_and_says_what_is_needed(archive: Path) -> None:
    """Platform and Python are checked, and named."""
    with pytest.raises(InputError, match=r"x86-64 and cp311; needed .* aarch64 and cp313"):
        ReleaseArchive.open(archive, platform="aarch64", python="cp313")
    with pytest.raises(InputError, match="needed is a release for x86-64 and cp312"):
        ReleaseArchive.open(archive, python="cp312")


def _twice(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["wheels"].append(dict(listed["wheels"][0]))


def _other_version_too(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    entries["wheels/needed-2.0-py3-none-any.whl"] = b"x"
    listed["wheels"].append({"file": "needed-2.0-py3-none-any.whl", "sha256": "0" * 64, "size": 1})


def _climbs(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["wheels"][0]["file"] = "../evil-1.0-py3-none-any.whl"


def _unlisted(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    entries["../../etc/cron.d/evil"] = b"x"


def _lacks_one(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    entries.popitem()


def _other_size(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["wheels"][0]["size"] += 1


def _huge(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["wheels"][0]["size"] = limits.MAX_RELEASE_BYTES
    listed["wheels"][1]["size"] = limits.MAX_RELEASE_BYTES


def _no_agent(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["wheels"] = [one for one in listed["wheels"] if not one["file"].startswith("shoal-")]


def _other_agent(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["version"] = "0.9.1"


def _other_board(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["platform"] = "aarch64"


def _newer_format(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["format"] = 2


def _nothing(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
    listed["wheels"] = []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_twice, "bad-release"),
        (_other_version_too, "bad-release"),
        (_climbs, "bad-message"),
        (_unlisted, "bad-release"),
        (_lacks_one, "bad-release"),
        (_other_size, "bad-release"),
        (_huge, "too-large"),
        (_no_agent, "bad-release"),
        (_other_agent, "bad-release"),
        (_other_board, "bad-release"),
        (_newer_format, "bad-message"),
        (_nothing, "bad-message"),
    ],
)
def test_a_hostile_list_is_refused(
    archive: Path,
    change: Callable[[dict[str, Any], dict[str, bytes]], None],
    code: str,
) -> None:
    """What lists other things than it holds is refused before a wheel is read."""
    with pytest.raises(InputError) as found:
        ReleaseArchive.open(_rewritten(archive, change))
    assert found.value.code == code


def test_a_wheel_with_other_bytes_is_found_and_not_left_behind(
    archive: Path, tmp_path: Path
) -> None:
    """The sha256 decides, not the zip's own checksum."""

    def other(listed: dict[str, Any], entries: dict[str, bytes]) -> None:
        name = f"wheels/{listed['wheels'][-1]['file']}"
        entries[name] = entries[name][:-1] + b"!"

    opened = ReleaseArchive.open(_rewritten(archive, other))
    with pytest.raises(InputError, match=r"shoal-0\.9\.0.*get the archive again"):
        opened.extract(tmp_path / "out")
    assert not list((tmp_path / "out").glob("shoal-*"))


def test_a_compressed_archive_is_refused(archive: Path) -> None:
    """What unfolds to more than it is cannot be given."""
    with zipfile.ZipFile(archive) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as sink:
        for name, data in entries.items():
            sink.writestr(name, data)
    with pytest.raises(InputError, match="compressed"):
        ReleaseArchive.open(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice_is_refused(archive: Path) -> None:
    """Two readers could take one each."""
    with zipfile.ZipFile(archive, "a") as sink:
        sink.writestr(release.RELEASE, b"{}")
    with pytest.raises(InputError, match="twice"):
        ReleaseArchive.open(archive)


def test_no_part_of_an_archive_passes_for_one(archive: Path) -> None:
    """A download that broke off is no release, wherever it did."""
    whole, cut = archive.read_bytes(), archive.with_name("cut.zip")
    for size in range(0, len(whole), 41):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError):
            ReleaseArchive.open(cut).verify()


@given(position=st.integers(min_value=0), value=st.integers(0, 255))
def test_a_changed_byte_gives_the_release_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    """Damage anywhere never gives other wheels, nor another kind of error."""
    folder = tmp_path_factory.mktemp("damage")
    whole = bytearray(make_release(folder, "0.9.0").read_bytes())
    whole[position % len(whole)] = value
    damaged = folder / "damaged.zip"
    damaged.write_bytes(whole)
    try:
        opened = ReleaseArchive.open(damaged)
        for wheel in opened.release.wheels:
            sink = io.BytesIO()
            opened.copy(wheel, sink)
            assert sink.getvalue() == (folder / "wheels-0.9.0" / wheel.file).read_bytes()
    except InputError:
        pass


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64", True),
        ("cp39-abi3-manylinux_2_17_aarch64", True),
        ("cp314-abi3-manylinux_2_17_aarch64", False),
        ("cp312-cp312-manylinux_2_17_aarch64", False),
        ("cp313-cp313-manylinux_2_17_x86_64", False),
        ("cp313-cp313-macosx_11_0_aarch64", False),
        ("py3-none-manylinux2014_aarch64", True),
    ],
)
def test_tags_say_where_a_wheel_runs(tmp_path: Path, tag: str, fits: bool) -> None:
    """A wheel for another machine or Python is found by its name."""
    name = make_wheel(tmp_path, "needed", "1.0", tag=tag).name
    assert release.WheelEntry(name, "0" * 64, 1).runs_on("aarch64", "cp313") is fits


def test_this_machine_has_a_name_of_the_form_of_releases() -> None:
    """What `here` says can be asked for."""
    platform, python = release.here()
    assert release.parse_target(release.target("1.0.0", platform, python)) is not None
