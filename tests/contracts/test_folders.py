"""One folder put in the place of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts import folders


def made(folder: Path, text: str) -> Path:
    """A folder with one file."""
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """In one step, or where the system has none such, in two."""
    if not exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    place = tmp_path / "bundle"
    for text in ("first", "second"):
        folders.put_folder(made(tmp_path / "new", text), place)
        assert (place / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("exchange", [True, False])
def test_what_cannot_take_the_place_leaves_the_old_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """The new folder is gone when its turn comes: the old one is as it was."""
    if not exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    place = made(tmp_path / "bundle", "old")
    with pytest.raises(OSError, match="No such file"):
        folders.put_folder(tmp_path / "missing", place)
    assert (place / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_there_is_a_folder_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut right before the old one is deleted finds the new one in its place."""
    place = made(tmp_path / "bundle", "old")
    seen: list[tuple[str, str]] = []

    def look(path: Path, **_: object) -> None:
        seen.append(((place / "file").read_text(), (path / "file").read_text()))

    monkeypatch.setattr(folders.shutil, "rmtree", look)
    folders.put_folder(made(tmp_path / "new", "new"), place)
    assert seen == [("new", "old")]
