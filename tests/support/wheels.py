"""Small wheels that pip installs, made in a test: nothing is fetched."""

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from contracts import release


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    files: Mapping[str, str] | None = None,
    requires: tuple[str, ...] = (),
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """Writes a wheel of `files` (default: a package of its name) with console scripts."""
    base = f"{name}-{version}"
    info = f"{base}.dist-info"
    content = dict(files if files is not None else {f"{name}/__init__.py": ""})
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{info}/METADATA"] += "".join(f"Requires-Dist: {one}\n" for one in requires)
    pure = str(tag.endswith("-any")).lower()
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    )
    if scripts:
        lines = "".join(f"{one} = {where}\n" for one, where in scripts.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    record = ""
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text.encode())}\n"
    content[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{base}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), text)
    return wheel


def make_release(
    folder: Path,
    version: str,
    *,
    platform: str = "x86-64",
    python: str = "cp311",
    agent: Mapping[str, str] | None = None,
    script: str = "agent:main",
) -> Path:
    """Writes a release archive of a fake agent with one dependency, a wheel of `platform`.

    Args:
        folder: where it goes.
        version: of the agent.
        platform: of the release.
        python: of the release.
        agent: files of the agent's wheel; None: a command that prints its version.
        script: what the command ``shoal-agent`` runs.
    """
    files = agent or {
        "agent/__init__.py": f"def main():\n    import needed\n    print('{version}')\n"
    }
    wheels = [
        make_wheel(
            folder / f"wheels-{version}", release.DISTRIBUTION, version, files=files,
            requires=("needed",), scripts={release.NAME: script},
        ),
        make_wheel(
            folder / f"wheels-{version}", "needed", "1.0",
            tag=f"{python}-{python}-manylinux2014_{release.PLATFORMS[platform]}",
        ),
    ]  # fmt: skip
    path = folder / f"{version}-{platform}-{python}.zip"
    release.write(path, version=version, platform=platform, python=python, wheels=wheels)
    return path
