"""A real PostgreSQL for tests: Debian's package, in a temporary folder, on loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.support.tools import free_port, need_tool


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return need_tool(name, *(str(path) for path in reversed(found)))


def _account() -> str | None:
    """Whom to run as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("no account to run PostgreSQL as")


class Postgres:
    """A server; every test takes a database of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://shoal@127.0.0.1:{self.port}/{database}"

    def _run(self, statement: str) -> None:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="shoal", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """A copy of a database that nobody is connected to, or an empty one; yields its URL."""
        name = f"t{uuid.uuid4().hex[:16]}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextlib.contextmanager
def postgres(*, durable: bool = True) -> Iterator[Postgres]:
    """Starts a server, and stops it at the end.

    Args:
        durable: False where nothing is measured and only processes are killed: what was written
            outlives them without fsync.
    """
    initdb, server = _program("initdb"), _program("postgres")
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="shoal-postgres-"))
    try:
        if account is not None:
            shutil.chown(folder, account)
        options = {"user": account} if account is not None else {}
        data = folder / "data"
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        subprocess.run(
            [initdb, "-D", data, "-U", "shoal", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            env=environment,
            **options,
        )
        port = free_port()
        with subprocess.Popen(
            [server, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder,
             "-c", "max_connections=200", "-c", f"fsync={'on' if durable else 'off'}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            **options,
        ) as process:  # fmt: skip
            try:
                _wait(port, process)
                yield Postgres(port)
            finally:
                process.terminate()
                process.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns once the server takes connections; pg_isready waits for us."""
    pg_isready = _program("pg_isready")
    for _ in range(100):
        if process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended with {process.returncode}")
        done = subprocess.run(
            [pg_isready, "-h", "127.0.0.1", "-p", str(port), "-t", "1"], capture_output=True
        )
        if done.returncode == 0:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    raise RuntimeError("PostgreSQL did not start")
