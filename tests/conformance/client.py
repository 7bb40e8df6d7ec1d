#!/usr/bin/env python3
"""A command-line client for the public TUF conformance protocol; see README.md beside this file.

It is a thin shell around :class:`agent.trust.client.Trust` and :class:`agent.update.http.Http`,
the code that runs on devices.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agent.trust.client import Fetch, Trust
from agent.update.fetch import read_all
from agent.update.http import Http
from contracts.bundle import sha256_of
from contracts.errors import ShoalError

_SHIPPED = Path("root_history/shipped.json")
_MAX_TARGET_BYTES = 16 * 1024 * 1024


def init(metadata: Path, root: Path) -> None:
    """Stores the root that the client is shipped with; asks the repository nothing."""
    data = root.read_bytes()
    (metadata / _SHIPPED).parent.mkdir(parents=True, exist_ok=True)
    (metadata / _SHIPPED).write_bytes(data)
    (metadata / "root.json").write_bytes(data)


def fetch_from(metadata_url: str, targets_url: str | None) -> Fetch:
    """Reads ``metadata/...`` and ``targets/...`` from their two base URLs."""
    bases = {"metadata": Http(metadata_url)}
    if targets_url:
        bases["targets"] = Http(targets_url)

    def fetch(path: str, cap: int) -> bytes:
        kind, _, rest = path.partition("/")
        return read_all(bases[kind], rest, cap)

    return fetch


def download(trust: Trust, name: str, folder: Path) -> None:
    """Stores a target under the hash of its name: a name is hostile as a path."""
    path = folder / sha256_of(name.encode())
    kept = path.read_bytes() if path.is_file() else b""
    data = trust.download(name, _MAX_TARGET_BYTES, kept)
    folder.mkdir(parents=True, exist_ok=True)
    if data != kept or not path.exists():
        path.write_bytes(data)


def main() -> int:
    """Runs one command; 0 when all of it succeeded, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    options = parser.parse_args()
    try:
        if options.command == "init":
            init(options.metadata_dir, options.trusted_root)
            return 0
        trust = Trust(
            options.metadata_dir,
            (options.metadata_dir / _SHIPPED).read_bytes(),
            fetch_from(options.metadata_url, options.target_base_url),
        )
        trust.refresh()
        if options.command == "download":
            for name in options.target_name:
                download(trust, name, options.target_dir)
    except ShoalError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
