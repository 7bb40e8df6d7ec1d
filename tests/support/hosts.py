"""Network namespaces as separate hosts on one wire: nothing of it touches the machine's network."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

from tests.support.tools import need_tool

_READY: Final = "echo ready && exec sleep infinity"


class Host:
    """One namespace.

    Args:
        pid: of the process that holds it.
        home: the working folder of what runs there.
        environment: of what runs there.
    """

    def __init__(self, pid: int, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.environment = {**os.environ, **environment}
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        self._enter = ["nsenter", "--target", str(pid), "--mount", "--net", *user]
        # A mount namespace is entered at its root.
        self._enter += ["sh", "-c", 'cd "$0" && exec "$@"', str(home)]

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` there."""
        return [*self._enter, *words]

    def run(self, *words: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Runs a program there to its end."""
        return subprocess.run(
            self.command(*words),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Starts a program there."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                self.command(*words), env=self.environment, stdout=stream, stderr=stream
            )


@contextlib.contextmanager
def wire(
    folder: Path,
    addresses: Mapping[str, Sequence[str]],
    names: str,
    environment: Mapping[str, str],
    slow: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[dict[str, Host]]:
    """Hosts on one wire, each with a home in `folder`; the first holds the switch.

    Args:
        folder: for their homes.
        addresses: of each host, with the bits of their network.
        names: what stands in the ``/etc/hosts`` of all.
        environment: variables of what runs there.
        slow: of hosts behind a slow link, its rate in both directions, as ``1mbit``.
    """
    for tool in ("unshare", "nsenter", "ip", *(["tc"] if slow else [])):
        need_tool(tool, f"/usr/sbin/{tool}", f"/usr/bin/{tool}")
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{names}\n")
    mine = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    setup = f"mount --bind {folder / 'hosts'} /etc/hosts && ip link set lo up && {_READY}"
    with contextlib.ExitStack() as stack:
        outer = hold(stack, ["unshare", *mine, "--net", "--mount", "sh", "-c", setup])
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        into = ["nsenter", "--target", str(outer), "--mount", "--net", *user]
        pids = {
            name: hold(stack, [*into, "unshare", "--net", "--mount", "sh", "-c", setup])
            if number
            else outer
            for number, name in enumerate(addresses)
        }
        hosts = {}
        for name, pid in pids.items():
            (folder / name).mkdir()
            hosts[name] = Host(pid, folder / name, environment)
        first, *others = hosts
        _do(hosts[first], "ip link add wire type bridge && ip link set wire up")
        for name in others:
            port = f"to-{name}"[:15]
            _do(hosts[first], f"ip link add {port} type veth peer name wire netns {pids[name]}")
            _do(hosts[first], f"ip link set {port} master wire up")
            _do(hosts[name], "ip link set wire up")
            if name in slow:
                shape = f"root tbf rate {slow[name]} burst 32kbit latency 400ms"
                _do(hosts[first], f"tc qdisc add dev {port} {shape}")
                _do(hosts[name], f"tc qdisc add dev wire {shape}")
        for name, host in hosts.items():
            for one in addresses[name]:
                _do(host, f"ip address add {one} dev wire {'nodad' if ':' in one else ''}")
        yield hosts


def _do(host: Host, command: str) -> None:
    done = host.run("sh", "-c", command)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def hold(stack: contextlib.ExitStack, command: list[str]) -> int:
    """Starts a process that holds a namespace; its id in the namespace of ours."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None and process.stderr is not None
    stack.callback(process.stdout.close)
    stack.callback(process.stderr.close)
    if process.stdout.readline().strip() != "ready":
        text = process.stderr.read()
        if os.environ.get("CI") == "true":
            pytest.fail(f"no network namespaces here: {text}")
        pytest.skip(f"no network namespaces here: {text}")
    return process.pid
