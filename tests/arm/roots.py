"""Debian root file systems for ARM with the agent installed, and how to run programs in them.

Nothing of the kernel's is changed: no binfmt registration. A root's Python is a two-line script
that starts the emulator, so programs in the root can start one another, as the agent does.
Roots are made once, in ``.arm`` of the project; what is in them decides when they are made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tomllib  # Python 3.11, as the roots have

PROJECT: Final = Path(__file__).parents[2]
CACHE: Final = PROJECT / ".arm"
SUITE: Final = "bookworm"
MIRROR: Final = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
RECIPE: Final = "1"
"""Of the roots; a change makes them anew."""

_VENV: Final = "/opt/shoal"
_PYTHON: Final = "/usr/bin/python3.11"
_PIP_SETTINGS: Final = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_PROXY", "PIP_DEFAULT_TIMEOUT",
    "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip

# Mounts live in a namespace of their own, and end with the program. LiteRT and tflite-runtime
# choose their kernels by /proc/cpuinfo, which this emulator passes through from the host.
_ENTER: Final = (
    'mount -t proc proc "$0/proc" && mount -t sysfs -o ro sysfs "$0/sys" '
    '&& mount --bind "$1" "$0/proc/cpuinfo" && shift && exec chroot "$0" "$@"'
)


@dataclass(frozen=True)
class Architecture:
    """One of Debian's.

    Attributes:
        name: Debian's.
        machine: Linux's.
        emulator: the program that runs it.
        packages: Debian's packages beside the smallest system.
        links: of the C library's search path, that a package's script would have made.
        built: requirements without a ready-made wheel, built here by a cross compiler.
        compiler: the cross compiler; empty where nothing is built.
    """

    name: str
    machine: str
    emulator: str
    packages: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    built: tuple[str, ...] = ()
    compiler: str = ""

    @property
    def tools(self) -> dict[str, str]:
        """Programs and the Debian packages they are in."""
        found = {"debootstrap": "debootstrap", self.emulator: "qemu-user-static"}
        if self.compiler:
            found[self.compiler] = f"gcc-{self.compiler.removesuffix('-gcc')}"
        return found


ARM64: Final = Architecture("arm64", "aarch64", "qemu-aarch64-static", ("python3", "python3-venv"))

# 32-bit ARM has no numpy, pyyaml, msgspec, psutil, zstandard and cffi wheels on PyPI. Debian's
# first two are new enough; the others are built. A user takes all of them from piwheels.
_ARMHF_PACKAGES: Final = (
    "python3", "python3-venv", "python3-numpy", "python3-yaml",
    "libpython3.11-dev", "libffi-dev", "libc6-dev",
)  # fmt: skip
ARMHF: Final = Architecture(
    "armhf",
    "armv7l",
    "qemu-arm-static",
    _ARMHF_PACKAGES,
    links=(
        ("usr/lib/arm-linux-gnueabihf/libblas.so.3", "blas/libblas.so.3"),
        ("usr/lib/arm-linux-gnueabihf/liblapack.so.3", "lapack/liblapack.so.3"),
    ),
    built=("msgspec", "psutil", "zstandard", "cffi"),
    compiler="arm-linux-gnueabihf-gcc",
)


class BuildError(Exception):
    """A program that makes a root failed; the message has the end of its output."""


def run(command: Iterable[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """Runs a program that makes something; returns what it printed.

    Raises:
        BuildError: it failed.
    """
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=None if environment is None else {**os.environ, **environment},
    )
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-20:])
        raise BuildError(f"{' '.join(arguments)[:200]} ended with {done.returncode}:\n{end}")
    return done.stdout


class Root:
    """A root file system with the agent in it.

    Args:
        architecture: what it is for.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.path = CACHE / architecture.name
        self._wheels = CACHE / f"wheels-{architecture.name}"

    def inside(self, path: Path) -> str:
        """A path below the root as programs in it see it."""
        return f"/{path.relative_to(self.path)}"

    def command(self, *arguments: str, cpu: str = "max", cpuinfo: str = "") -> list[str]:
        """How the host runs a program of the root.

        Args:
            arguments: the program and its arguments.
            cpu: the emulator's model of a processor.
            cpuinfo: what ``/proc/cpuinfo`` says.
        """
        shown = self.path / "etc" / f"cpuinfo-{cpu}"
        shown.write_text(cpuinfo)
        return [
            "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", f"QEMU_CPU={cpu}",
            "unshare", "--mount", "sh", "-c", _ENTER, str(self.path), str(shown), *arguments,
        ]  # fmt: skip

    def agent(self, *arguments: str, cpu: str, cpuinfo: str) -> list[str]:
        """How the host runs ``shoal-agent`` of the root."""
        return self.command(f"{_VENV}/bin/shoal-agent", *arguments, cpu=cpu, cpuinfo=cpuinfo)

    def make(self, shoal: Path) -> list[str]:
        """Makes what is missing or out of date; returns what that was.

        Args:
            shoal: the wheel under test.
        """
        made = []
        architecture = self.architecture
        requirements = _requirements()
        if self._outdated("system", RECIPE, SUITE, *architecture.packages):
            self._make_system()
            self._done("system", RECIPE, SUITE, *architecture.packages)
            made.append("system")
        if architecture.built and self._outdated("built", RECIPE, *architecture.built):
            self._build_wheels(
                [
                    next((r for r in requirements if _name(r) == name), name)
                    for name in architecture.built
                ]
            )
            self._done("built", RECIPE, *architecture.built)
            made.append("built packages")
        if self._outdated("requirements", RECIPE, *requirements):
            self._make_environment()
            self._install(shoal)
            self._done("requirements", RECIPE, *requirements)
            self._done("agent", shoal.read_bytes().hex())
            made.append("requirements, agent")
        elif self._outdated("agent", shoal.read_bytes().hex()):
            self._install(shoal, "--no-deps", "--no-index", "--force-reinstall")
            self._done("agent", shoal.read_bytes().hex())
            made.append("agent")
        self._make_launchers()
        return made

    # What is in it: a stamp a part, with the digest of what decides its content. ---------

    def _stamp(self, part: str) -> Path:
        return self.path / "var" / "lib" / f"arm-{part}"

    def _outdated(self, part: str, *content: str) -> bool:
        stamp = self._stamp(part)
        return not stamp.is_file() or stamp.read_text() != _digest(content)

    def _done(self, part: str, *content: str) -> None:
        self._stamp(part).write_text(_digest(content))

    # Parts. -----------------------------------------------------------------------------

    def _make_system(self) -> None:
        """The first stage of debootstrap, and the files of the other packages.

        Nothing of the packages' own scripts runs: only their files are needed.
        """
        shutil.rmtree(self.path, ignore_errors=True)
        CACHE.mkdir(exist_ok=True)
        run([
            "debootstrap", "--foreign", "--variant=minbase", f"--arch={self.architecture.name}",
            f"--include={','.join(self.architecture.packages)}", SUITE, self.path, MIRROR,
        ])  # fmt: skip
        archives = self.path / "var" / "cache" / "apt" / "archives"
        for package in sorted(archives.glob("*.deb")):
            run(["dpkg-deb", "--extract", package, self.path])
            package.unlink()
        for link, target in self.architecture.links:
            (self.path / link).symlink_to(target)
        emulator = shutil.which(self.architecture.emulator)
        assert emulator is not None
        shutil.copy(emulator, self.path / "usr" / "bin")

    def _build_wheels(self, requirements: list[str]) -> None:
        """Builds extension modules for the root with the host's cross compiler.

        setuptools takes the target's settings from the ``_sysconfigdata`` module that these
        variables name; the compiler takes headers and libraries from the root.
        """
        if sys.version_info[:2] != (3, 11):
            raise BuildError("extension modules for the root need Python 3.11 here, as there")
        tools = CACHE / "build"
        if not (tools / "bin" / "python").exists():
            venv.create(tools, with_pip=True)
        run([tools / "bin" / "pip", "install", "--quiet", "setuptools>=80", "setuptools-scm>=8",
             "wheel"])  # fmt: skip
        triplet = self.architecture.compiler.removesuffix("-gcc")
        settings = f"_sysconfigdata__{triplet}"
        folder = CACHE / "sysconfig"
        folder.mkdir(exist_ok=True)
        shutil.copy(self.path / "usr" / "lib" / "python3.11" / f"{settings}.py", folder)
        compiler = f"{self.architecture.compiler} --sysroot={self.path}"
        shutil.rmtree(self._wheels, ignore_errors=True)
        run(
            [tools / "bin" / "pip", "wheel", "--no-cache-dir", "--no-deps", "--no-binary=:all:",
             "--no-build-isolation", f"--wheel-dir={self._wheels}",
             *requirements],
            {
                "_PYTHON_SYSCONFIGDATA_NAME": settings,
                "_PYTHON_HOST_PLATFORM": f"linux-{self.architecture.machine}",
                "PYTHONPATH": str(folder),
                "CC": compiler,
                "LDSHARED": f"{compiler} -shared",
                "CFLAGS": f"-O2 -I{self.path}/usr/include/python3.11",
                "PKG_CONFIG": "/bin/false",  # the host's answers are for the host
            },
        )  # fmt: skip

    def _make_environment(self) -> None:
        """A virtual environment that sees Debian's packages too."""
        shutil.rmtree(self.path / _VENV[1:], ignore_errors=True)
        self._emulate(_PYTHON, "-m", "venv", "--without-pip", "--system-site-packages", _VENV)

    def _install(self, shoal: Path, *options: str) -> None:
        """Installs the agent with the root's own pip, which chooses what ARM needs."""
        wheels = self.path / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        wheels.mkdir()
        for wheel in (shoal, *self._wheels.glob("*.whl")):
            shutil.copy(wheel, wheels)
        _copy_if_there(Path("/etc/resolv.conf"), self.path / "etc" / "resolv.conf")
        certificates = os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt")
        _copy_if_there(Path(certificates), self.path / "etc" / "certificates.pem")
        pip = next((self.path / "usr" / "share" / "python-wheels").glob("pip-*.whl"))
        # pip knows a 32-bit ARM by its interpreter's file: here it must not be the launcher.
        for name in ("python", "python3", "python3.11"):
            link = self.path / _VENV[1:] / "bin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(_PYTHON)
        self._emulate(
            "-0", f"{_VENV}/bin/python3", _PYTHON, f"{self.inside(pip)}/pip", "install",
            "--no-cache-dir", "--disable-pip-version-check", "--only-binary=:all:",
            "--find-links=/wheels", *options, f"/wheels/{shoal.name}",
        )  # fmt: skip

    def _make_launchers(self) -> None:
        emulator = f"/usr/bin/{self.architecture.emulator}"
        for name in ("python", "python3", "python3.11"):
            launcher = self.path / _VENV[1:] / "bin" / name
            launcher.unlink(missing_ok=True)
            launcher.write_text(f'#!{emulator} /bin/sh\nexec {emulator} -0 "$0" {_PYTHON} "$@"\n')
            launcher.chmod(0o755)

    def _emulate(self, *arguments: str) -> None:
        settings = [f"{name}={os.environ[name]}" for name in _PIP_SETTINGS if name in os.environ]
        if (self.path / "etc" / "certificates.pem").is_file():
            settings.append("PIP_CERT=/etc/certificates.pem")
        run([
            "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", *settings,
            "chroot", self.path, f"/usr/bin/{self.architecture.emulator}", *arguments,
        ])  # fmt: skip


def build_wheel() -> Path:
    """The project's own wheel."""
    folder = CACHE / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
         "--no-deps", f"--wheel-dir={folder}", PROJECT])  # fmt: skip
    return next(folder.glob("*.whl"))


def _requirements() -> list[str]:
    with (PROJECT / "pyproject.toml").open("rb") as stream:
        requirements: list[str] = tomllib.load(stream)["project"]["dependencies"]
    return requirements


def _name(requirement: str) -> str:
    """``msgspec`` of ``msgspec>=0.19,<1``."""
    return requirement.split(";")[0].split("[")[0].split("<")[0].split(">")[0].split("=")[0].strip()


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _copy_if_there(source: Path, target: Path) -> None:
    if source.is_file():
        target.unlink(missing_ok=True)
        shutil.copy(source, target)
