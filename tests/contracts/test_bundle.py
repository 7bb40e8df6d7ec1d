"""Bundles: what is whole is read, what is not is refused with one clear error."""

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import codec
from contracts.bundle import MANIFEST, Bundle, decode_manifest, pack
from contracts.errors import InputError
from tests.support.bundles import noise_bundle, rewrite


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A whole bundle folder."""
    return noise_bundle(tmp_path / "bundle")


def test_a_packed_bundle_reads_as_the_folder(bundle: Bundle, tmp_path: Path) -> None:
    """Folder and .shoal file have the same identity and files."""
    pack(bundle.path, tmp_path / "b.shoal")
    packed = Bundle.open(tmp_path / "b.shoal")
    packed.verify()
    assert packed.path.stat().st_mode & 0o777 == 0o644, "whoever reads the folder reads the file"
    assert packed.ref == bundle.ref
    assert packed.golden() == bundle.golden()
    packed.extract(tmp_path / "again")
    assert Bundle.open(tmp_path / "again").ref == bundle.ref


def test_packing_twice_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    """Times and orders do not leak into the file."""
    pack(bundle.path, tmp_path / "a.shoal")
    (bundle.path / "model.tflite").touch()
    pack(bundle.path, tmp_path / "b.shoal")
    assert (tmp_path / "a.shoal").read_bytes() == (tmp_path / "b.shoal").read_bytes()


def test_every_truncation_of_a_file_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """No prefix of a .shoal file passes for a bundle."""
    pack(bundle.path, tmp_path / "b.shoal")
    whole = (tmp_path / "b.shoal").read_bytes()
    cut = tmp_path / "cut.shoal"
    for size in range(0, len(whole), 97):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError):
            Bundle.open(cut).verify()


def test_every_flipped_byte_of_the_model_is_found(bundle: Bundle) -> None:
    """A changed byte anywhere in a listed file is an error that names the file."""
    model = bundle.path / "model.tflite"
    good = model.read_bytes()
    for position in range(0, len(good), 501):
        model.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(InputError, match=r"model\.tflite is not what the manifest says"):
            bundle.verify()


@pytest.mark.parametrize("path", ["missing", "."])
def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path, path: str) -> None:
    """A missing path, and a folder without a manifest."""
    with pytest.raises(InputError) as error:
        Bundle.open(tmp_path / path)
    assert error.value.code in ("no-such-file", "not-a-bundle")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/b", "", ".hidden", "..", "con\x00", "manifest.json"]
)
def test_file_names_cannot_leave_the_bundle(bundle: Bundle, name: str) -> None:
    """Folders, parents, absolute paths and the manifest itself are refused."""
    text = bundle.manifest_bytes.replace(b'"golden.json"', codec.encode(name))
    with pytest.raises(InputError):
        decode_manifest(text)


def test_a_manifest_must_list_what_it_uses(bundle: Bundle) -> None:
    """A model file that is not in the list cannot be checked, so it is refused."""
    files = [entry for entry in bundle.manifest.files if entry.path != "model.tflite"]
    with pytest.raises(InputError, match=r"uses model\.tflite but does not list it"):
        rewrite(bundle, files=files)


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A manifest that unpacks to more than its cap is not unpacked."""
    bomb = tmp_path / "bomb.shoal"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b" " * (64 << 20))
    with pytest.raises(InputError, match="over 1048576 bytes"):
        Bundle.open(bomb)


@given(st.binary(max_size=300))
def test_hostile_manifests_give_an_input_error(data: bytes) -> None:
    """No bytes raise anything but InputError."""
    with pytest.raises(InputError):
        decode_manifest(data)


@given(st.binary(max_size=300))
def test_hostile_files_give_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """No file raises anything but InputError."""
    file = tmp_path_factory.mktemp("hostile") / "x.shoal"
    file.write_bytes(data)
    with pytest.raises(InputError):
        Bundle.open(file)
