"""What a board needs to join in a test: a release without downloads, and a board to write on.

The release is the real agent's own wheel. What it depends on are wheels of the right names that
hold nothing but the way to the packages of the tests' own environment.
"""

from __future__ import annotations

import ensurepip
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from contracts import __version__, release
from fleet.joining import own_wheel
from tests.support.hosts import Host
from tests.support.wheels import make_wheel

SYSTEMCTL: Final = """#!/bin/sh
# As much of systemd as a board's installer meets: one service, started by its unit's own line.
echo "$@" >> {log}
end() {{  # as systemd does: what is to end has ended before anything else is done
  test -e {pid} && kill "$(cat {pid})" && timeout 90 tail -f /dev/null --pid "$(cat {pid})"
}}
case "$1" in
restart)
  end
  mkdir -p /var/lib/shoal && cd /var/lib/shoal
  setsid $(sed -n 's/^ExecStart=//p' /etc/systemd/system/shoal-agent.service) >> {agent} 2>&1 &
  echo $! > {pid} ;;
disable | stop)
  end; rm -f {pid}; exit 0 ;;
esac
"""


def offline_release(folder: Path) -> Path:
    """A release of the agent for this machine and Python."""
    platform, python = release.here()
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    own_wheel.build(wheels)
    ways = "".join(f"{path}\n" for path in sys.path if path.endswith("site-packages"))
    files = {"tests_environment.pth": ways}
    for line in own_wheel.requirements():
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate():
            name = one.name.replace("-", "_").lower()
            make_wheel(wheels, name, metadata.version(one.name), files=files)
            files = {}
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    (wheels / pip.name).write_bytes(pip.read_bytes())
    path = folder / "release.zip"
    release.write(
        path,
        version=__version__,
        platform=platform,
        python=python,
        wheels=wheels.glob("*.whl"),
    )
    return path


class Board:
    """A host whose system folders are its own, with a stand-in for systemd and for sudo.

    Args:
        host: a network and mount namespace.
        names: what stands in its ``/etc/hosts``.
    """

    def __init__(self, host: Host, names: str = "") -> None:
        self.host = host
        self.home = host.home
        self.agent_log = self.home / "agent.log"
        self.systemctl_log = self.home / "systemctl.log"
        tools = self.home / "bin"
        tools.mkdir()
        text = SYSTEMCTL.format(
            log=self.systemctl_log, agent=self.agent_log, pid=self.home / "agent.pid"
        )
        for name, script in (("systemctl", text), ("sudo", '#!/bin/sh\nexec "$@"\n')):
            (tools / name).write_text(script)
            (tools / name).chmod(0o755)
        folders = {"etc": "/etc", "opt": "/opt", "lib": "/var/lib", "run": "/run"}
        for name in folders:
            (self.home / name).mkdir()
        (self.home / "run/lock").mkdir()
        hosts = f"127.0.0.1 localhost\n{names}\n"
        binds = " && ".join(
            f"mount --bind {self.home / name} {path}" for name, path in folders.items()
        )
        self._do(f"cp -a /etc/. {self.home / 'etc'} && umount /etc/hosts && {binds}")
        (self.home / "etc/hosts").write_text(hosts)
        python = Path(sys.executable).resolve()
        self.path = f"{tools}:{python.parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        self.before = self.written()

    def _do(self, command: str) -> None:
        done = self.host.run("sh", "-c", command)
        assert done.returncode == 0, done.stderr

    def type(self, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Types a line into a shell that has next to no environment."""
        more = [f"{name}={value}" for name, value in variables.items()]
        return self.host.run(
            "env", "-i", f"PATH={self.path}", f"HOME={self.home}", *more, "sh", "-c", line,
            timeout=300,
        )  # fmt: skip

    def written(self) -> dict[str, str]:
        """What is in the folders that an installation writes to, and who the users are."""
        found = {
            str(path.relative_to(self.home)): ""
            for name in ("opt", "lib", "etc/shoal", "etc/systemd/system")
            for path in (self.home / name).rglob("*")
        }
        for name in ("passwd", "group"):
            found[name] = (self.home / "etc" / name).read_text()
        return found

    def stop(self) -> None:
        """Ends the agent, if one was started."""
        self.type("systemctl stop shoal-agent.service")
