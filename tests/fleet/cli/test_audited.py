"""Every command that changes a fleet leaves an entry in its audit log, done or failed.

The commands are those of the program, so that a new one is either listed here or fails.

Over 400 lines: one table of all commands.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from contracts import __version__
from contracts.answers import FieldSample
from contracts.config import MqttConfig
from contracts.errors import UnavailableError
from fleet.api.refusals import CHANGES
from fleet.cli import noted
from fleet.cli.app import app
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.joining import wheelhouse
from fleet.store import audit, samples
from fleet.store.audit import Entry
from tests.support.bundles import noise_bundle
from tests.support.controller import TINY
from tests.support.served import ServedFleet
from tests.support.tools import free_port
from tests.support.wheels import make_release

RUN = CliRunner()

BY_ROUTE = {
    "fleet alert add": ("POST", "/v1/alerts/rules"),
    "fleet alert remove": ("DELETE", "/v1/alerts/rules/{rule}"),
    "fleet alert silence": ("POST", "/v1/alerts/rules/{rule}/silence"),
    "fleet alert test": ("POST", "/v1/alerts/test"),
    "fleet label": ("PATCH", "/v1/devices/{device}"),
    "fleet rollout create": ("POST", "/v1/rollouts"),
    "fleet agent rollout": ("POST", "/v1/rollouts"),
    "fleet teach": ("POST", "/v1/lessons"),
    "fleet logs": ("POST", "/v1/devices/{device}/logs"),
    "fleet samples ask": ("POST", "/v1/samples/asks"),
    "fleet samples collect": ("POST", "/v1/samples/asks/{ask}/collect"),
    "fleet samples label": ("POST", "/v1/samples/labels"),
    "fleet samples delete": ("DELETE", "/v1/samples"),
    "fleet rollout approve": ("POST", "/v1/rollouts/{rollout}/{command}"),
    "fleet rollout pause": ("POST", "/v1/rollouts/{rollout}/{command}"),
    "fleet rollout resume": ("POST", "/v1/rollouts/{rollout}/{command}"),
    "fleet rollout abort": ("POST", "/v1/rollouts/{rollout}/{command}"),
}
"""Commands that ask the controller, which notes them: tests/fleet/api/test_audited.py."""

NO_ENTRY = {
    "improve": "exports samples, publishes, makes rollouts: each is noted by itself",
    "init": "writes a recipe; there is no fleet",
    "build": "builds a bundle; there is no fleet",
    "import": "builds a bundle; there is no fleet",
    "tune": "builds a bundle; there is no fleet",
    "classify": "runs a bundle here",
    "generate": "runs a bundle here",
    "compare": "reads two reports",
    "embed": "runs a bundle here",
    "eval": "runs a bundle here",
    "inspect": "reads a bundle",
    "demo": "makes a fleet of its own for a while",
    "boards list": "reads",
    "boards check": "reads",
    "boards files": "writes files of a device; its enrolment is noted",
    "boards flash": "copies files to a board; its enrolment is noted",
    "fleet agent list": "reads",
    "fleet alert list": "reads",
    "fleet app list": "reads",
    "fleet accuracy": "reads",
    "fleet pooled": "reads",
    "fleet audit": "reads",
    "fleet devices": "reads",
    "fleet doctor": "reads",
    "fleet feedback": "tells a device, which counts it; texts are kept nowhere",
    "fleet metrics": "reads",
    "fleet expiry": "reads",
    "fleet query": "asks devices; neither question nor answer is kept",
    "fleet rollout list": "reads",
    "fleet samples list": "reads",
    "fleet rollout plan": "says what a rollout would do",
    "fleet rollout show": "reads",
    "fleet timeline": "reads",
    "fleet serials list": "reads",
    "fleet tokens list": "reads",
    "fleet keys list": "reads",
    "fleet keys delegated": "reads",
    "fleet keys new": "makes a key; it counts when a root or a delegation names it, noted then",
    "fleet sign": "runs where no fleet is; what it signs is noted when it is taken in",
    "fleet simulate": "connects as devices do; a device is noted when it is enrolled",
}
"""Commands that leave no entry, and why."""


class Case:
    """A fleet's folder, and what commands on it need."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.fleet = Fleet.open(folder)
        self.work = work

    def run(self, *arguments: object, ok: bool = True) -> str:
        """Runs ``shoal fleet``; `ok`: whether it is to succeed."""
        done = RUN.invoke(app, ["fleet", *map(str, arguments)])
        assert (done.exit_code == 0) == ok, done.output
        assert not done.exception or isinstance(done.exception, SystemExit), done.exception
        return done.output

    def here(self, *arguments: object, ok: bool = True) -> str:
        """Runs ``shoal fleet`` on the folder."""
        return self.run(*arguments, "--dir", self.fleet.folder, ok=ok)

    def entries(self) -> list[Entry]:
        """The audit log, newest first."""
        store = self.fleet.open_store()
        with store.read() as connection:
            found, _ = audit.page(connection, None, 1000)
        store.close()
        return found

    def bundle(self, version: str = "1.0.0") -> Path:
        """A bundle, of other bytes for each version."""
        folder = self.work / f"bundle-{version}"
        return noise_bundle(folder, version=version, seed=len(version)).path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's folder; tests copy it, as making keys takes a while."""
    folder = tmp_path_factory.mktemp("audited") / "fleet"
    Fleet.init(
        folder, FleetConfig("home", mqtt=MqttConfig(port=1), api=ApiConfig(port=free_port()))
    )
    return folder


@pytest.fixture
def case(template: Path, tmp_path: Path) -> Case:
    """A copy of the fleet."""
    shutil.copytree(template, tmp_path / "fleet")
    return Case(tmp_path / "fleet", tmp_path)


def signed_elsewhere(case: Case) -> tuple[Path, Path]:
    """A publisher's key folder and public key."""
    keys = case.work / "kitchen"
    told = json.loads(case.run("keys", "new", "kitchen", "--keys", keys, "--json"))
    return keys, Path(told["public"])


def delegate(case: Case) -> None:
    """Lets a publisher sign."""
    _, public = signed_elsewhere(case)
    case.here("keys", "delegate", "kitchen", "--pattern", "k-*", "--public", public)


def undelegate(case: Case) -> None:
    """Takes it back."""
    delegate(case)
    case.here("keys", "undelegate", "kitchen")


def propose(case: Case) -> Path:
    """A draft of a new root."""
    draft = case.work / "draft.json"
    case.here("keys", "propose", "root", draft, "--keep")
    return draft


def sign(case: Case) -> Path:
    """A draft that another holder signs."""
    holder = case.work / "holder"
    told = json.loads(case.run("keys", "new", "root", "--keys", holder, "--json"))
    draft = case.work / "draft.json"
    case.here(
        "keys", "propose", "root", draft, "--keep", "--add", 0, "--public", told["public"],
        "--threshold", 2,
    )  # fmt: skip
    case.here("keys", "sign", draft, "--yes", "--keys", holder)
    return draft


def enroll(case: Case) -> None:
    """A device."""
    case.here("enroll", "kitchen", "--board", "raspberry-pi-5")


def listed(case: Case) -> None:
    """A board is on the list."""
    table = case.work / "boards.csv"
    table.write_text("serial,board\n10000000ABCD,raspberry-pi-5\n")
    case.here("serials", "add", table)


def with_address(case: Case, *command: object) -> None:
    """A fleet that boards find."""
    case.run("init", case.work / "found", "--name", "found", "--host", "fleet.example.org")
    case.fleet = Fleet.open(case.work / "found")
    case.here(*command)


def restore(case: Case) -> None:
    """From a backup, to another folder, whose log it is in."""
    case.here("backup", case.work / "b.tar.gz")
    case.run("restore", case.work / "b.tar.gz", case.work / "again")
    case.fleet = Fleet.open(case.work / "again")


def init(case: Case) -> None:
    """Another fleet."""
    case.run("init", case.work / "new", "--name", "new")
    case.fleet = Fleet.open(case.work / "new")


def taken_port(case: Case, *command: object) -> None:
    """A controller whose port is taken."""
    with socket.create_server(("127.0.0.1", case.fleet.config.api.port)):
        case.here(*command, ok=False)


def application(case: Case) -> None:
    """An application, of a fleet with certificates."""
    case.run("init", case.work / "tls", "--name", "tls", "--tls")
    case.fleet = Fleet.open(case.work / "tls")
    case.here("app", "add", "panel", "--may", "status", "--on", "group=kitchen")


FOR = ("--platform", "x86-64", "--python", "3.11")


def suggested(case: Case) -> None:
    """Suggestions for a text that a device gave, by the version that is published."""
    ref, _ = case.fleet.publish(TINY)
    store = case.fleet.open_store()
    ask = samples.Ask("ask-1", ref.name, "all", 9, "", "ann", 1.0)
    one = FieldSample("0" * 32, 1.0, "ring in an hour", "x", 0.1, ref, ["low-confidence"])
    with store.write() as connection:
        samples.add(store, connection, ask, "d1", [one], 1.0)
    store.close()
    assert "version 1.0.0: 1 suggestions" in case.here("samples", "suggest", ref.name)
    store = case.fleet.open_store()
    with store.read() as connection:
        (text,) = samples.texts(connection, ref.name)
    store.close()
    assert [hint.source for hint in text.hints] == ["version 1.0.0"]


def fetch(case: Case, gather: Callable[[Path], object], *, ok: bool = True) -> None:
    """The agent's wheels, from an index that is not asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheelhouse, "gather", lambda archive, *_, **__: gather(archive))
        case.here("agent", "fetch", *FOR, ok=ok)


def offline() -> None:
    """The index does not answer."""
    raise UnavailableError("fetch-failed", "pip cannot fetch anything here")


Do = Callable[[Case], Any]
CHANGING: dict[str, tuple[str, Do | None, Do]] = {
    "fleet init": (
        "fleet.init",
        init,
        lambda c: c.run("init", c.fleet.folder, "--name", "x", ok=False),
    ),
    "fleet enroll": (
        "device.enroll",
        enroll,
        lambda c: c.here("enroll", "a/b", "--board", "raspberry-pi-5", ok=False),
    ),
    "fleet token": (
        "device.token",
        lambda c: c.here("token", "hall", "--board", "raspberry-pi-5"),
        lambda c: c.here("token", "hall", "--board", "none", ok=False),
    ),
    "fleet serials add": (
        "device.serials",
        listed,
        lambda c: c.here("serials", "add", c.work / "none.csv", ok=False),
    ),
    "fleet serials line": (
        "device.serials",
        lambda c: with_address(c, "serials", "line"),
        lambda c: c.here("serials", "line", ok=False),
    ),
    "fleet serials remove": (
        "device.serial-remove",
        lambda c: (listed(c), c.here("serials", "remove", "10000000abcd")),
        lambda c: c.here("serials", "remove", "nobody", ok=False),
    ),
    "fleet tokens revoke": (
        "device.token-revoke",
        lambda c: (
            c.here("token", "hall", "--board", "raspberry-pi-5"),
            c.here("tokens", "revoke", "hall"),
        ),
        lambda c: c.here("tokens", "revoke", "nobody", ok=False),
    ),
    "fleet publish": (
        "bundle.publish",
        lambda c: c.here("publish", c.bundle()),
        lambda c: c.here("publish", c.work / "none", ok=False),
    ),
    "fleet withdraw": (
        "bundle.withdraw",
        lambda c: (c.here("publish", c.bundle()), c.here("withdraw", "noise", "1.0.0")),
        lambda c: c.here("withdraw", "noise", "1.0.0", ok=False),
    ),
    "fleet revoke": (
        "device.revoke",
        lambda c: (enroll(c), c.here("revoke", "kitchen")),
        lambda c: c.here("revoke", "nobody", ok=False),
    ),
    "fleet retire": (
        "device.retire",
        lambda c: (enroll(c), c.here("retire", "kitchen")),
        lambda c: c.here("retire", "nobody", ok=False),
    ),
    "fleet rename": (
        "device.rename",
        lambda c: (enroll(c), c.here("rename", "kitchen", "hall")),
        lambda c: c.here("rename", "nobody", "hall", ok=False),
    ),
    "fleet agent add": (
        "agent.publish",
        lambda c: c.here("agent", "add", make_release(c.work, "9.9.9")),
        lambda c: c.here("agent", "add", c.work / "none.zip", ok=False),
    ),
    "fleet agent fetch": (
        "agent.publish",
        lambda c: fetch(c, lambda archive: shutil.copy(make_release(c.work, __version__), archive)),
        lambda c: fetch(c, lambda _: offline(), ok=False),
    ),
    "fleet agent withdraw": (
        "agent.withdraw",
        lambda c: (
            c.here("agent", "add", make_release(c.work, "9.9.9")),
            c.here("agent", "withdraw", "9.9.9", *FOR),
        ),
        lambda c: c.here("agent", "withdraw", "9.9.9", *FOR, ok=False),
    ),
    "fleet app add": (
        "app.add",
        application,
        lambda c: c.here("app", "add", "x", "--may", "leave", "--on", "group=k", ok=False),
    ),
    "fleet app revoke": (
        "app.revoke",
        lambda c: (application(c), c.here("app", "revoke", "panel")),
        lambda c: c.here("app", "revoke", "panel", ok=False),
    ),
    "fleet samples export": (
        "samples.export",
        lambda c: c.here("samples", "export", "m", "--out", c.work / "m.jsonl"),
        lambda c: c.here("samples", "export", "m", "--out", c.work / "no" / "m", ok=False),
    ),
    "fleet samples suggest": (
        "samples.suggest",
        suggested,
        lambda c: c.here("samples", "suggest", "nothing", ok=False),
    ),
    "fleet backup": (
        "fleet.backup",
        lambda c: c.here("backup", c.work / "b.tar.gz"),
        lambda c: c.here("backup", c.fleet.folder / "fleet.yaml" / "b.tar.gz", ok=False),
    ),
    "fleet restore": (
        "fleet.restore",
        restore,
        lambda c: (
            c.here("backup", c.work / "b.tar.gz"),
            c.run("restore", c.work / "b.tar.gz", c.fleet.folder, ok=False),
        ),
    ),
    "fleet takeover": ("fleet.takeover", lambda c: c.here("takeover"), lambda c: unwritable(c)),
    "fleet keys rotate": (
        "keys.rotate",
        lambda c: c.here("keys", "rotate", "snapshot"),
        lambda c: c.here("keys", "rotate", "nothing", ok=False),
    ),
    "fleet keys propose": (
        "keys.propose",
        propose,
        lambda c: c.here("keys", "propose", "nothing", c.work / "d", ok=False),
    ),
    "fleet keys sign": (
        "keys.sign",
        sign,
        lambda c: c.here("keys", "sign", propose(c), "--yes", "--keys", c.work / "no", ok=False),
    ),
    "fleet keys apply": (
        "keys.apply",
        lambda c: c.here("keys", "apply", propose(c)),
        lambda c: c.here("keys", "apply", c.work / "none", ok=False),
    ),
    "fleet keys resign": (
        "keys.resign",
        lambda c: c.here("keys", "resign"),
        lambda c: c.here("keys", "resign", "--keys", c.work / "none", ok=False),
    ),
    "fleet keys delegate": (
        "keys.delegate",
        delegate,
        lambda c: c.here(
            "keys", "delegate", "kitchen", "--pattern", "a/b", "--public",
            signed_elsewhere(c)[1], ok=False,
        ),
    ),
    "fleet keys undelegate": (
        "keys.undelegate",
        undelegate,
        lambda c: c.here("keys", "undelegate", "kitchen", ok=False),
    ),
    "fleet serve": ("controller.start", None, lambda c: taken_port(c, "serve")),
    "fleet up": ("controller.start", None, lambda c: taken_port(c, "up")),
    "fleet ingest": ("ingest.start", None, lambda c: c.here("ingest", "one", ok=False)),
}  # fmt: skip
"""Commands that change something: the entry, what makes it, and what fails.

What runs until it is told to stop has its entry of success in
:func:`test_a_controller_that_starts_and_stops_says_so`.
"""


def unwritable(case: Case) -> None:
    """A takeover that the database refuses at the last moment, and then takes entries again."""
    from fleet.store import ownership

    real = ownership.grant

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership, "grant", fails)
        done = RUN.invoke(app, ["fleet", "takeover", "--dir", str(case.fleet.folder)])
        assert done.exit_code != 0
    assert ownership.grant is real


def commands(group: object, path: str = "") -> Iterator[str]:
    """Every command of the program, with its groups before it."""
    inside = getattr(group, "commands", None)
    if inside is None:
        yield path
        return
    for name, command in inside.items():
        yield from commands(command, f"{path} {name}".strip())


def test_every_command_is_known_here() -> None:
    """A new one changes something, and is in the audit log, or it is said why it need not be."""
    found = set(commands(typer.main.get_command(app)))
    assert len(found) > 40
    assert found == set(CHANGING) | set(BY_ROUTE) | set(NO_ENTRY)
    assert len(CHANGING) + len(BY_ROUTE) + len(NO_ENTRY) == len(found)
    assert set(BY_ROUTE.values()) <= set(CHANGES)


@pytest.mark.parametrize("command", [name for name, (_, does, _) in CHANGING.items() if does])
def test_a_command_that_changes_something_leaves_an_entry(case: Case, command: str) -> None:
    """As done, by the user of this machine."""
    action, does, _ = CHANGING[command]
    assert does is not None
    does(case)
    newest = case.entries()[0]
    assert (newest.action, newest.outcome) == (action, audit.DONE)
    assert newest.actor.startswith("cli:")


@pytest.mark.parametrize("command", CHANGING)
def test_a_command_that_fails_leaves_an_entry(case: Case, command: str) -> None:
    """With the reason, once, and bounded: the same again is counted on it."""
    action, _, fails = CHANGING[command]
    fails(case)
    failed = [one for one in case.entries() if one.outcome != audit.DONE]
    assert [(one.action, one.times) for one in failed] == [(action, 1)]
    assert failed[0].outcome not in (audit.BEGUN, audit.DEFECT)


def test_a_controller_that_starts_and_stops_says_so(
    tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str
) -> None:
    """And a process of ingest beside it."""
    with ServedFleet(
        tmp_path / "fleet", mosquitto_broker, name=fleet_name, shared_ingest=True
    ) as served:
        case = Case(served.fleet.folder, tmp_path)

        def told(action: str) -> bool:
            return any((one.action, one.outcome) == (action, "done") for one in case.entries())

        served.until(lambda: told("controller.start"))
        assert not told("controller.stop")
        command = ["-m", "fleet", "fleet", "ingest", "one", "--dir", str(case.fleet.folder)]
        with subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL) as ingest:
            served.until(lambda: told("ingest.start"))
            ingest.terminate()
            assert ingest.wait(30) == 0
        assert told("ingest.stop")
        assert served.stop() == 0
        assert told("controller.stop")


def test_what_fails_before_there_is_a_fleet_is_in_the_log_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no audit log yet; without a log of the system the error is told as ever."""
    (tmp_path / "cut.tar.gz").write_bytes(b"cut off")
    (tmp_path / "file").write_text("")
    commands = {
        "fleet.restore": ["restore", str(tmp_path / "cut.tar.gz"), str(tmp_path / "new")],
        "fleet.init": ["init", str(tmp_path / "file" / "below")],
    }
    monkeypatch.setattr(noted, "SYSTEM_LOG", tmp_path / "log")
    for words in commands.values():
        done = RUN.invoke(app, ["fleet", *words])
        assert done.exit_code != 0
        assert len(done.stderr.splitlines()) == 1, done.stderr
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        log.settimeout(10)
        for action, words in commands.items():
            done = RUN.invoke(app, ["fleet", *words])
            assert done.exit_code != 0
            line = log.recv(4096).decode()
            assert f"shoal: {audit.local().name} {action} {words[-1]}: " in line
    assert not (tmp_path / "new").exists()
