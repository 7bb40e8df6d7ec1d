"""Bundles on disk: read, check, write. A bundle is a folder or an uncompressed zip (``.shoal``).

Reading trusts nothing: names are plain, sizes are capped before a byte is read, and every
file is checked against the manifest. Writing is reproducible: the same content gives the
same bytes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from contracts import codec, limits
from contracts.errors import InputError
from contracts.manifest import SEVERAL_SCHEMA, FileEntry, GoldenVector, Manifest
from contracts.messages import BundleRef

MANIFEST: Final = "manifest.json"
SUFFIX: Final = ".shoal"
_CHUNK: Final = 1 << 20


def sha256_of(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def decode_manifest(data: bytes) -> Manifest:
    """Decodes and cross-checks a manifest.

    Raises:
        InputError: ``bad-message`` or ``bad-manifest`` with what is wrong.
    """
    manifest = codec.decode(data, Manifest, what="manifest.json", cap=limits.MAX_MANIFEST_BYTES)
    names = [entry.path for entry in manifest.files]
    if len(set(names)) != len(names) or MANIFEST in names:
        raise InputError("bad-manifest", "the manifest lists a file twice, or itself")
    needed = [manifest.model.file, manifest.golden.file]
    if manifest.front_end.__struct_config__.tag == "tokenizer":
        needed.append(manifest.front_end.file)  # type: ignore[union-attr]
    if manifest.generator is not None:
        needed.append(manifest.generator.embedding)
        if manifest.generator.adapters is not None:
            needed.append(manifest.generator.adapters.basis)
    for name in needed:
        if name not in names:
            raise InputError("bad-manifest", f"the manifest uses {name} but does not list it")
    if manifest.total_bytes > limits.MAX_BUNDLE_BYTES:
        raise InputError("too-large", f"the bundle's files have {manifest.total_bytes} bytes")
    if manifest.task == "classify" and manifest.classifier is None:
        raise InputError("bad-manifest", "a classify bundle needs 'classifier' with its labels")
    _check_several(manifest)
    tag = manifest.front_end.__struct_config__.tag
    adapts = manifest.adapter is not None
    if adapts != (tag == "base") or (
        adapts and (manifest.task != "generate" or manifest.generator)
    ):
        raise InputError(
            "bad-manifest",
            "an adapter is a generate bundle with the front end of its base and no generator",
        )
    whole = adapts or tag == "alphabet"
    if manifest.task == "generate" and manifest.generator is None and not whole:
        raise InputError("bad-manifest", "a generate bundle needs 'generator' with its signatures")
    return manifest


def _check_several(manifest: Manifest) -> None:
    """Cuts, and the schema that keeps them from readers that do not know them, come together."""
    facts = manifest.classifier
    cuts = facts.cuts if facts is not None else []
    if bool(cuts) != (manifest.schema == SEVERAL_SCHEMA):
        raise InputError(
            "bad-manifest",
            f"schema {SEVERAL_SCHEMA} is that of classifiers with cuts, and of no others",
        )
    if facts is None or not cuts:
        return
    if len(cuts) != len(facts.labels):
        raise InputError(
            "bad-manifest", f"the manifest has {len(cuts)} cuts for {len(facts.labels)} labels"
        )
    if manifest.model.quantization != "int8":
        raise InputError("bad-manifest", "cuts are of int8 outputs; the model is not int8")


class Bundle:
    """An opened bundle whose manifest was checked; files are checked when they are read.

    Attributes:
        path: the folder or ``.shoal`` file.
        manifest: the decoded manifest.
        manifest_bytes: as on disk; their sha256 is the bundle's identity.
    """

    def __init__(self, path: Path, manifest_bytes: bytes) -> None:
        self.path = path
        self.manifest_bytes = manifest_bytes
        self.manifest = decode_manifest(manifest_bytes)

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Opens a folder or a ``.shoal`` file.

        Raises:
            InputError: ``no-such-file``, ``not-a-bundle``, ``bad-manifest``, ``too-large``.
        """
        if path.is_dir():
            file = path / MANIFEST
            if not file.is_file():
                raise InputError("not-a-bundle", f"{path} is a folder without {MANIFEST}")
            if file.stat().st_size > limits.MAX_MANIFEST_BYTES:
                raise InputError("too-large", f"{file} is over {limits.MAX_MANIFEST_BYTES} bytes")
            return cls(path, file.read_bytes())
        if not path.is_file():
            raise InputError(
                "no-such-file", f"{path}: no such bundle; expected a folder or a {SUFFIX} file"
            )
        return cls(path, _read_member(path, MANIFEST, limits.MAX_MANIFEST_BYTES))

    @property
    def ref(self) -> BundleRef:
        """The bundle's name, version and identity."""
        return self.manifest.ref(sha256_of(self.manifest_bytes))

    def entry(self, name: str) -> FileEntry:
        """The manifest's entry of a file; ``InputError`` when it has none."""
        for entry in self.manifest.files:
            if entry.path == name:
                return entry
        raise InputError("not-a-bundle", f"{self.path} lists no file {name}")

    def read(self, name: str) -> bytes:
        """A file's bytes, checked against the manifest.

        Raises:
            InputError: ``bundle-corrupt``; missing, of another size, or another sha256.
        """
        entry = self.entry(name)
        if self.path.is_dir():
            file = self.path / entry.path
            size = file.stat().st_size if file.is_file() else -1
            data = file.read_bytes() if size == entry.size else b""
        else:
            data = _read_member(self.path, entry.path, entry.size)
            size = len(data)
        if size != entry.size or sha256_of(data) != entry.sha256:
            raise InputError(
                "bundle-corrupt",
                f"{self.path}: {name} is not what the manifest says "
                f"(expected {entry.size} bytes with sha256 {entry.sha256[:12]}..., "
                f"found {max(size, 0)} bytes); get the bundle again",
            )
        return data

    def check(self, name: str) -> None:
        """Checks a file of a folder against the manifest without holding it in memory.

        Raises:
            InputError: ``bundle-corrupt``, as :meth:`read`.
        """
        entry = self.entry(name)
        file = self.path / entry.path
        size = file.stat().st_size if file.is_file() else -1
        if size != entry.size or sha256_file(file) != entry.sha256:
            raise InputError(
                "bundle-corrupt",
                f"{self.path}: {name} is not what the manifest says; get the bundle again",
            )

    def verify(self) -> None:
        """Reads and checks every file; raises as :meth:`read` does."""
        for entry in self.manifest.files:
            self.read(entry.path)

    def golden(self) -> list[GoldenVector]:
        """The golden vectors.

        Raises:
            InputError: ``bad-manifest`` when their number is not the manifest's.
        """
        vectors = codec.decode(
            self.read(self.manifest.golden.file),
            list[GoldenVector],
            what="golden vectors",
            cap=64 * limits.MIB,
        )
        if len(vectors) != self.manifest.golden.count:
            raise InputError(
                "bad-manifest",
                f"expected {self.manifest.golden.count} golden vectors, found {len(vectors)}",
            )
        return vectors

    def extract(self, folder: Path) -> None:
        """Writes all files, checked, and the manifest last, into `folder` (made when missing)."""
        folder.mkdir(parents=True, exist_ok=True)
        for entry in self.manifest.files:
            (folder / entry.path).write_bytes(self.read(entry.path))
        (folder / MANIFEST).write_bytes(self.manifest_bytes)


def _read_member(path: Path, name: str, cap: int) -> bytes:
    import struct
    import zipfile  # 1 MB that a program with an unpacked bundle does without
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(name)
            if info.file_size > cap:
                raise InputError("too-large", f"{path}: {name} is over {cap} bytes")
            with archive.open(info) as stream:
                data = stream.read(cap + 1)
    except KeyError:
        raise InputError("not-a-bundle", f"{path} has no {name}") from None
    except (
        zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError, RuntimeError,
        OSError, ValueError,
    ) as error:  # fmt: skip
        raise InputError(
            "not-a-bundle", f"{path} is not a bundle, or is truncated: {error}"
        ) from None
    if len(data) > cap:
        raise InputError("too-large", f"{path}: {name} is over {cap} bytes")
    return data


def file_entries(files: Iterable[Path]) -> list[FileEntry]:
    """Manifest entries of files on disk, sorted by name."""
    return sorted(
        (FileEntry(f.name, sha256_file(f), f.stat().st_size) for f in files),
        key=lambda entry: entry.path,
    )


def pack(folder: Path, target: Path) -> None:
    """Packs a bundle folder into a ``.shoal`` file: stored, fixed times, written atomically.

    Raises:
        InputError: the folder is not a whole bundle.
    """
    import zipfile

    bundle = Bundle.open(folder)
    bundle.verify()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                for name in [MANIFEST, *(entry.path for entry in bundle.manifest.files)]:
                    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                    info.external_attr = 0o644 << 16
                    with (folder / name).open("rb") as source, archive.open(info, "w") as sink:
                        while chunk := source.read(_CHUNK):
                            sink.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)  # as the folder's files are
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
