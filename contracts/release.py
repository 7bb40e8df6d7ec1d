"""Agent releases: what a device installs the agent from, as one file.

A release archive is an uncompressed zip, a signed target of the fleet's repository under
``agent/{version}/{platform}-cp{NN}.zip`` (of boards with MicroPython a list of files instead,
``agent/{version}/{code}-mpy{NN}.json``: :mod:`contracts.micro_release`)::

    release.json      Release: what it is, and every wheel with its sha256
    wheels/*.whl      the agent's own wheel and all that it needs, for one platform and Python

Reading trusts nothing: an entry is `release.json` or a wheel that it lists, names are plain,
sizes are capped before a byte is read, and every wheel is checked while it is copied. Writing
is reproducible: the same wheels give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import platform as machine
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from contracts import codec, limits
from contracts.bundle import sha256_file
from contracts.errors import InputError
from contracts.messages import Sha256, Version

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

NAME: Final = "shoal-agent"
DISTRIBUTION: Final = "shoal"
"""The distribution whose wheel is the agent."""

RELEASE: Final = "release.json"
WHEELS: Final = "wheels"
PLATFORMS: Final = {"x86-64": "x86_64", "aarch64": "aarch64", "armv7l": "armv7l"}
"""Platforms of releases, with the machine's name in the tags of wheels."""

_MACHINES: Final = {found: name for name, found in PLATFORMS.items()}
_CHUNK: Final = 1 << 20
_MAX_RELEASE_JSON: Final = 256 * limits.KIB

Platform = Literal["x86-64", "aarch64", "armv7l"]
PythonTag = Annotated[str, msgspec.Meta(pattern=r"^cp3[0-9]{1,2}\Z")]
WheelName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*(-[A-Za-z0-9_.+!]+){4,5}\.whl\Z", max_length=200
    ),
]
_TARGET: Final = re.compile(
    r"agent/([0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9})/"
    r"(?:(x86-64|aarch64|armv7l)-(cp3[0-9]{1,2})\.zip|([a-z0-9]{2,16})-(mpy[0-9]{2})\.json)",
    re.ASCII,
)


class WheelEntry(msgspec.Struct, frozen=True):
    """A wheel of a release: its name below ``wheels/``, its sha256 and its size in bytes."""

    file: WheelName
    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_RELEASE_BYTES)]

    @property
    def distribution(self) -> str:
        """The name of what the wheel installs, in its one normal form."""
        return re.sub(r"[-_.]+", "-", self.file.split("-", 1)[0]).lower()

    def runs_on(self, platform: str, python: str) -> bool:
        """Whether the tags in its name are of a platform and Python."""
        *_, pythons, abis, places = self.file.removesuffix(".whl").split("-")
        anywhere = "any" in places.split(".")
        ending = f"_{PLATFORMS[platform]}"
        if not anywhere and not any(
            one.startswith(("linux", "manylinux", "musllinux")) and one.endswith(ending)
            for one in places.split(".")
        ):
            return False
        tags = pythons.split(".")
        if python in tags or "py3" in tags or f"py{python[2:]}" in tags:
            return True
        older = (int(tag[3:]) for tag in tags if re.fullmatch(r"cp3[0-9]{1,2}", tag))
        return "abi3" in abis.split(".") and any(one <= int(python[3:]) for one in older)


class Release(msgspec.Struct, frozen=True):
    """``release.json``.

    Attributes:
        format: 1.
        name: ``shoal-agent``.
        version: of the agent.
        platform: whose wheels these are.
        python: the Python whose wheels these are, for example ``cp313``.
        wheels: all that is installed, the agent's own among them; one for each distribution.
    """

    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    name: Literal["shoal-agent"]
    version: Version
    platform: Platform
    python: PythonTag
    wheels: Annotated[
        list[WheelEntry], msgspec.Meta(min_length=1, max_length=limits.MAX_RELEASE_WHEELS)
    ]

    @property
    def target(self) -> str:
        """Its name as a signed target."""
        return target(self.version, self.platform, self.python)

    @property
    def total_bytes(self) -> int:
        """Bytes of all wheels."""
        return sum(one.size for one in self.wheels)


def target(version: str, platform: str, python: str) -> str:
    """The name of a release as a signed target."""
    return f"agent/{version}/{platform}-{python}.zip"


def parse_target(name: str) -> tuple[str, str, str] | None:
    """Version, platform and Python of a release's target; None: it is none."""
    found = _TARGET.fullmatch(name)
    return None if found is None else (found[1], found[2] or found[4], found[3] or found[5])


def here() -> tuple[str, str]:
    """Platform and Python of this process, as a release names them.

    Raises:
        InputError: ``wrong-platform``; there are no releases for this machine.
    """
    # A 32-bit system on a 64-bit kernel says aarch64: wheels follow the interpreter.
    found = _MACHINES.get(machine.machine().replace("armv8l", "armv7l"))
    if found == "aarch64" and sys.maxsize <= 2**32:
        found = "armv7l"
    if found is None or not sys.platform.startswith("linux"):
        raise InputError(
            "wrong-platform",
            f"there are no releases for {sys.platform} on {machine.machine()}: expected Linux on "
            f"{', '.join(PLATFORMS)}",
        )
    return found, f"cp{sys.version_info.major}{sys.version_info.minor}"


def decode(data: bytes) -> Release:
    """Decodes and cross-checks ``release.json``.

    Raises:
        InputError: ``bad-message``, ``too-large``, or ``bad-release`` with what is wrong.
    """
    found = codec.decode(data, Release, what=RELEASE, cap=_MAX_RELEASE_JSON)
    seen: set[str] = set()
    for wheel in found.wheels:
        if wheel.distribution in seen:
            raise InputError("bad-release", f"{RELEASE} lists {wheel.distribution} twice")
        seen.add(wheel.distribution)
        if not wheel.runs_on(found.platform, found.python):
            raise InputError(
                "bad-release",
                f"{wheel.file} is not for {found.platform} and {found.python}, as {RELEASE} says",
            )
    if found.total_bytes > limits.MAX_RELEASE_BYTES:
        raise InputError("too-large", f"the release's wheels have {found.total_bytes} bytes")
    own = [one.file for one in found.wheels if one.distribution == DISTRIBUTION]
    if not own or not own[0].startswith(f"{DISTRIBUTION}-{found.version}-"):
        raise InputError(
            "bad-release", f"the release holds no wheel of {DISTRIBUTION} {found.version}"
        )
    return found


class ReleaseArchive:
    """An opened archive whose list was checked; wheels are checked when they are copied.

    Attributes:
        path: of the archive.
        release: the decoded list.
    """

    def __init__(self, path: Path, release: Release) -> None:
        self.path = path
        self.release = release

    @classmethod
    def open(
        cls, path: Path, *, platform: str | None = None, python: str | None = None
    ) -> ReleaseArchive:
        """Opens an archive and checks what it holds, without reading the wheels.

        Args:
            path: of the archive.
            platform: that it must be for; None: any.
            python: that it must be for; None: any.

        Raises:
            InputError: ``no-such-file``, ``not-a-release``, ``bad-release``, ``too-large``,
                ``wrong-platform``.
        """
        import zipfile  # 1 MB that a running agent does without

        size = path.stat().st_size if path.is_file() else -1
        if size < 0:
            raise InputError("no-such-file", f"{path}: no such release archive")
        if size > limits.MAX_RELEASE_BYTES:
            raise InputError("too-large", f"{path} is over {limits.MAX_RELEASE_BYTES} bytes")
        try:
            with zipfile.ZipFile(path) as archive:
                found = cls(path, _listed(path, archive, size))
        except _broken() as error:
            raise _not_a_release(path, error) from None
        found._check_for(platform, python)
        return found

    def _check_for(self, platform: str | None, python: str | None) -> None:
        mine = self.release
        if platform not in (None, mine.platform) or python not in (None, mine.python):
            raise InputError(
                "wrong-platform",
                f"{self.path} is for {mine.platform} and {mine.python}; needed is a release for "
                f"{platform or mine.platform} and {python or mine.python}",
            )

    def copy(self, wheel: WheelEntry, sink: IO[bytes]) -> None:
        """Copies one wheel's bytes. What was written is worth nothing when this raises.

        Raises:
            InputError: ``release-corrupt``; the bytes are not the listed ones. ``not-a-release``.
        """
        import struct
        import zipfile

        digest, count = hashlib.sha256(), 0
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(f"{WHEELS}/{wheel.file}") as stream,
            ):
                while chunk := stream.read(_CHUNK):
                    count += len(chunk)
                    if count > wheel.size:
                        break
                    digest.update(chunk)
                    sink.write(chunk)
        except (
            KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, struct.error
        ) as error:  # fmt: skip
            raise _corrupt(self.path, wheel, str(error)) from None
        if count != wheel.size or digest.hexdigest() != wheel.sha256:
            raise _corrupt(self.path, wheel, f"found {count} bytes with another content")

    def extract(self, folder: Path) -> None:
        """Writes all wheels, checked and synchronised, into `folder` (made when missing).

        Raises:
            InputError: as :meth:`copy`; the wheel that failed is not left behind.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for wheel in self.release.wheels:
            file = folder / wheel.file
            try:
                with file.open("xb") as sink:
                    self.copy(wheel, sink)
                    sink.flush()
                    os.fsync(sink.fileno())
            except InputError:
                file.unlink(missing_ok=True)
                raise

    def verify(self) -> None:
        """Reads and checks every wheel; raises as :meth:`copy` does."""
        with Path(os.devnull).open("wb") as nowhere:
            for wheel in self.release.wheels:
                self.copy(wheel, nowhere)


def write(
    path: Path, *, version: str, platform: str, python: str, wheels: Iterable[Path]
) -> Release:
    """Writes an archive: stored, fixed times, in the order of names, atomically.

    Raises:
        InputError: the wheels make no release, as :func:`decode`.
    """
    import zipfile

    files = sorted(wheels, key=lambda file: file.name)
    listed = [
        {"file": file.name, "sha256": sha256_file(file), "size": file.stat().st_size}
        for file in files
    ]
    data = codec.pretty(
        {
            "format": 1, "name": NAME, "version": version, "platform": platform,
            "python": python, "wheels": listed,
        }
    )  # fmt: skip
    release = decode(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(_info(RELEASE), data)
                for file in files:
                    info = _info(f"{WHEELS}/{file.name}")
                    with file.open("rb") as source, archive.open(info, "w") as sink:
                        while chunk := source.read(_CHUNK):
                            sink.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return release


# Parts. -------------------------------------------------------------------------------------


def _listed(path: Path, archive: ZipFile, size: int) -> Release:
    """The checked list of an archive, each of whose entries is one that it lists."""
    import zipfile

    entries = archive.infolist()
    if len(entries) > limits.MAX_RELEASE_WHEELS + 1:
        raise InputError("too-large", f"{path} holds {len(entries)} files")
    by_name: dict[str, ZipInfo] = {}
    for entry in entries:
        if entry.filename in by_name:
            raise InputError("bad-release", f"{path} holds {entry.filename[:100]!r} twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise InputError(
                "bad-release", f"{path}: {entry.filename[:100]!r} is compressed or encrypted"
            )
        by_name[entry.filename] = entry
    first = by_name.pop(RELEASE, None)
    if first is None:
        raise InputError("not-a-release", f"{path} has no {RELEASE}")
    if first.file_size > _MAX_RELEASE_JSON:
        raise InputError("too-large", f"{path}: {RELEASE} is over {_MAX_RELEASE_JSON} bytes")
    with archive.open(first) as stream:
        release = decode(stream.read(_MAX_RELEASE_JSON + 1))
    for wheel in release.wheels:
        found = by_name.pop(f"{WHEELS}/{wheel.file}", None)
        if found is None:
            raise InputError("bad-release", f"{path} lacks {wheel.file}, which it lists")
        if found.file_size != wheel.size or found.compress_size != wheel.size:
            raise InputError(
                "bad-release",
                f"{path}: {wheel.file} has {found.file_size} bytes, listed are {wheel.size}",
            )
    if by_name:
        raise InputError(
            "bad-release", f"{path} holds {min(by_name)[:100]!r}, which {RELEASE} does not list"
        )
    if release.total_bytes > size:  # entries that overlap
        raise InputError("bad-release", f"{path} is smaller than the wheels that it lists")
    return release


def _info(name: str) -> ZipInfo:
    import zipfile

    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    return info


def _broken() -> tuple[type[Exception], ...]:
    import struct
    import zipfile

    return (zipfile.BadZipFile, struct.error, EOFError, RuntimeError, OSError, ValueError)


def _not_a_release(path: Path, error: Exception) -> InputError:
    return InputError(
        "not-a-release",
        f"{path} is not a release archive, or only a part of one: {str(error)[:200]}; get it again",
    )


def _corrupt(path: Path, wheel: WheelEntry, why: str) -> InputError:
    return InputError(
        "release-corrupt",
        f"{path}: {wheel.file} is not what {RELEASE} says (expected {wheel.size} bytes with "
        f"sha256 {wheel.sha256[:12]}...): {why[:200]}; get the archive again",
    )
