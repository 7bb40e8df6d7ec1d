"""Delegated roles against a board's trust: the hostile cases of the agent on Linux, and bounds.

A board checks the signed lists alone, not snapshot and timestamp: what only these prove (that an
older list of another role is not put in the place of the newest) rests on the versions it saw.

Over 400 lines: one board's trust, an attack after the other.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import BundleRef
from tests.agent.trust.test_delegations import EVERYTHING, GRAPHS, KITCHEN
from tests.micro import device
from tests.support.tuf_simulator import NOW, Simulator, new_signer

TODAY = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
MAX_ROLES, MAX_DEPTH = 8, 4
"""As in ``agent/micro/delegations.py``, which CPython cannot import."""


def ask(process: subprocess.Popen[str], **request: Any) -> Any:
    """One answer of the interpreter."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    assert line, "the board ended"
    return json.loads(line)


class Board:
    """A board that asks a repository in memory, in the unix port with a board's heap."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, repository: Simulator) -> None:
        self._process = process
        self.folder = folder
        self.repository = repository
        self.today: str | None = TODAY
        self.asked: list[str] = []
        (folder / "trust").mkdir(parents=True)
        (folder / "trust/root.json").write_bytes(repository.first_root)

    def look(self, ref: BundleRef) -> dict[str, Any]:
        """What the board says of a bundle that it is to take."""
        served = self.folder / "served"
        served.mkdir(exist_ok=True)
        for old in served.iterdir():
            old.unlink()
        for path, data in self.repository.served.items():
            assert isinstance(data, bytes)
            if path.startswith("metadata/"):
                (served / path.replace("/", "|")).write_bytes(data)
        found: dict[str, Any] = ask(
            self._process,
            served=str(served),
            base=str(self.folder),
            name=ref.name,
            version=ref.version,
            sha256=ref.manifest_sha256,
            today=self.today,
        )
        self.asked = found.pop("asked")
        left = {path.name for path in (self.folder / "trust").iterdir()}
        assert left <= {"root.json", "trust.json"}
        return found

    def code(self, ref: BundleRef) -> str:
        """Why it is refused."""
        code: str = self.look(ref)["code"]
        return code

    def roles(self) -> list[str]:
        """The delegated roles that were asked for, in order."""
        found = [re.fullmatch(r"metadata/[0-9]+\.(.+)\.json", path) for path in self.asked]
        names = [match[1] for match in found if match]
        return [name for name in names if name not in ("root", "snapshot", "targets")]


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    """One interpreter for all tests; each has a folder of its own."""
    with subprocess.Popen(
        device.command("trusts.py"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=device.environment(),
    ) as started:
        yield started
        started.kill()


@pytest.fixture
def repository() -> Simulator:
    """An honest repository with one bundle, until a test makes it attack."""
    simulator = Simulator()
    simulator.add_bundle()
    simulator.publish()
    return simulator


@pytest.fixture
def kitchen(repository: Simulator) -> BundleRef:
    """A bundle that the role ``kitchen`` signed."""
    repository.delegate("kitchen", KITCHEN)
    ref = repository.add_bundle("kitchen-timer", data=b"{1}", role="kitchen")
    repository.publish()
    return ref


@pytest.fixture
def board(process: subprocess.Popen[str], tmp_path: Path, repository: Simulator) -> Board:
    """A board that has seen nothing yet."""
    return Board(process, tmp_path / "board", repository)


def online(repository: Simulator) -> None:
    """Signs snapshot and timestamp anew: what the keys at the controller can do alone."""
    repository.snapshot.version += 1
    repository.publish_snapshot()
    repository.timestamp.version += 1
    repository.publish_timestamp()


def test_a_bundle_of_a_delegated_role_is_accepted(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """Beside those of the targets role, for which no other role is asked."""
    assert board.look(kitchen) == {"release": 1, "length": 3}
    assert board.roles() == ["kitchen"]
    own = repository.add_bundle("kitchen-clock", data=b"{5}")
    repository.publish()
    assert board.look(own)["length"] == 3
    assert board.roles() == []


def test_a_delegated_role_signs_no_name_outside_its_pattern(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """Neither another name, nor one with a separator in it, nor another letter case."""
    for name in ("garage-door", "kitchen-a/b", "Kitchen-timer", "kitchen"):
        outside = repository.add_bundle(name, data=b"{2}", role="kitchen")
        repository.publish()
        assert board.code(outside) == "not-published"
        assert board.roles() == []


def test_the_targets_role_is_asked_before_those_it_delegates_to(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """A name that both sign counts as the targets role has it."""
    own = repository.add_bundle("kitchen-timer", data=b"{own}")
    repository.publish()
    assert board.look(own)["length"] == 5
    assert board.code(kitchen) == "wrong-manifest"


@pytest.mark.parametrize("signers", [[], [new_signer()]], ids=["nobody", "a stranger"])
def test_a_delegated_role_signed_by_other_keys_is_refused(
    board: Board, kitchen: BundleRef, repository: Simulator, signers: list[Any]
) -> None:
    """Also when snapshot and timestamp name it: the online keys publish nothing by themselves."""
    repository.publish_delegated("kitchen", signers)
    online(repository)
    assert board.code(kitchen) == "wrong-signature"


def test_a_delegated_role_below_its_threshold_is_refused(
    board: Board, repository: Simulator
) -> None:
    """One of two holders, and one holder who is listed twice."""
    repository.delegate("kitchen", KITCHEN, threshold=2)
    ref = repository.add_bundle("kitchen-timer", role="kitchen")
    repository.publish()
    both = repository.signers["kitchen"]
    assert board.look(ref)["release"] == 1
    repository.signers["kitchen"] = both[:1]
    repository.publish()
    assert board.code(ref) == "wrong-signature"
    listed = repository.targets.delegations
    assert listed is not None
    assert listed.roles is not None
    listed.keys["0" * 64] = listed.keys[both[0].public_key.keyid]
    listed.roles["kitchen"].keyids.append("0" * 64)
    repository.publish()
    assert board.code(ref) == "wrong-root"


def test_one_key_under_two_ids_does_not_sign_twice_for_the_targets_role_either(
    board: Board, repository: Simulator
) -> None:
    """A root of two holders, one of whom is in it twice."""
    ref = repository.add_bundle("noise")
    other = new_signer()
    repository.root.add_key(other.public_key, "targets")
    repository.root.keys[other.public_key.keyid].keyval = dict(
        repository.signers["targets"][0].public_key.keyval
    )
    repository.root.roles["targets"].threshold = 2
    repository.publish_root()
    data = json.loads(repository.sign(repository.targets))
    (one,) = data["signatures"]
    data["signatures"].append({**one, "keyid": other.public_key.keyid})
    repository.served[f"metadata/{repository.targets.version}.targets.json"] = json.dumps(
        data
    ).encode()
    assert board.code(ref) == "wrong-root"


def test_rollback_of_a_delegated_role_is_refused(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """By an older version in the snapshot; left out of it, the role signs nothing."""
    repository.publish()
    assert board.look(kitchen)["release"] == 1
    repository.delegated["kitchen"].version = 0
    repository.publish()
    assert board.code(kitchen) == "rollback"
    del repository.snapshot.meta["kitchen.json"]
    online(repository)
    assert board.code(kitchen) == "not-published"
    assert board.roles() == []


def test_versions_are_kept_for_the_roles_that_were_used_last(
    board: Board, repository: Simulator
) -> None:
    """So that publishers who come and go do not fill the flash; those in use are kept."""
    for number in range(40):
        repository.targets.delegations = None
        role = f"team-{number}"
        repository.delegate(role, EVERYTHING)
        ref = repository.add_bundle(f"m{number}", role=role)
        repository.publish()
        assert board.look(ref)["release"] == 1
    kept = json.loads((board.folder / "trust/trust.json").read_text())["roles"]
    assert [name for name, _ in kept] == [f"team-{number}" for number in range(8, 40)]


def test_mix_and_match_of_a_delegated_role_is_refused(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """An older, rightly signed file in the place of the one that the snapshot names."""
    old = repository.served["metadata/1.kitchen.json"]
    repository.publish()
    repository.served["metadata/2.kitchen.json"] = old
    assert board.code(kitchen) == "mix-and-match"


def test_mix_and_match_one_delegated_role_is_no_other(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """A role's metadata does not count as that of another, whatever path it comes by."""
    repository.delegate("garage", "bundles/garage-*/*/manifest.json")
    door = repository.add_bundle("garage-door", data=b"{3}", role="garage")
    repository.publish()
    repository.served["metadata/1.garage.json"] = repository.served["metadata/2.kitchen.json"]
    assert board.code(door) == "wrong-signature"


def test_an_expired_delegated_role_stops_its_own_bundles_alone(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """The publisher is named; what others signed goes on."""
    repository.delegated["kitchen"].expires = NOW - timedelta(days=1)
    repository.publish()
    said = board.look(kitchen)
    assert said["code"] == "expired"
    assert "its publisher must sign it anew" in said["message"]
    assert board.look(Simulator().add_bundle())["release"] == 1


def test_expiry_of_a_role_is_not_judged_without_a_clock(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """As for the targets role: a board whose clock was never set keeps every other check."""
    repository.delegated["kitchen"].expires = datetime(2026, 1, 2, tzinfo=UTC)
    repository.publish()
    board.today = None
    assert board.look(kitchen)["release"] == 1


def test_a_delegation_that_was_taken_away_counts_no_more(
    board: Board, kitchen: BundleRef, repository: Simulator
) -> None:
    """Though the role's metadata is still served."""
    assert board.look(kitchen)["release"] == 1
    repository.targets.delegations = None
    repository.publish()
    assert board.code(kitchen) == "not-published"


def test_one_role_under_two_delegators_is_checked_for_each(
    board: Board, repository: Simulator
) -> None:
    """Keys that one delegator gave a role do not vouch for it where another one asks."""
    for team in ("a", "b"):
        repository.delegate(f"team-{team}", f"bundles/{team}-*/*/manifest.json")
    repository.delegate("release", "bundles/a-*/*/manifest.json", by="team-a")
    theirs = repository.signers.pop("release")
    repository.delegate("release", "bundles/b-*/*/manifest.json", by="team-b")
    repository.signers["release"] = theirs
    good = repository.add_bundle("a-model", data=b"{a}", role="release")
    bad = repository.add_bundle("b-model", data=b"{b}", role="release")
    repository.publish()
    assert board.look(good)["length"] == 3
    assert board.code(bad) == "wrong-signature"


@pytest.mark.parametrize("graph", GRAPHS)
def test_roles_are_asked_once_each_in_the_order_of_the_specification(
    board: Board, repository: Simulator, graph: str
) -> None:
    """Depth first; a terminating delegation ends the search in others."""
    edges, order = GRAPHS[graph]
    for by, role, terminating in edges:
        repository.delegate(role, EVERYTHING, by=by, terminating=terminating)
    repository.publish()
    assert board.code(BundleRef("missing", "1.0.0", "0" * 64)) == "not-published"
    assert board.roles() == order


@pytest.mark.parametrize("shape", ["wide", "deep"])
def test_a_search_through_very_many_roles_ends(
    board: Board, repository: Simulator, shape: str
) -> None:
    """Whoever may delegate cannot keep a board busy, nor fill its memory."""
    last = "targets"
    for number in range(100):
        role = f"r{number}"
        repository.delegate(role, EVERYTHING, by=last if shape == "deep" else "targets")
        last = role
    ref = repository.add_bundle("needle", role=last)
    repository.publish()
    assert board.code(ref) == "too-many-roles"
    most = MAX_DEPTH if shape == "deep" else MAX_ROLES
    assert len(board.roles()) == most


@pytest.mark.parametrize("role", ["?", "#", "/outside", "../outside", "root_history/9.root", "é"])
def test_a_strange_name_of_a_role_stays_inside_the_folder(
    board: Board, repository: Simulator, role: str
) -> None:
    """A role's name is data: neither a path, nor a part of the syntax of a URL."""
    repository.delegate(role, KITCHEN)
    ref = repository.add_bundle("kitchen-timer", role=role)
    repository.publish()
    assert board.look(ref)["release"] == 1
    assert sorted(path.name for path in board.folder.iterdir()) == ["served", "trust"]


@pytest.mark.parametrize("name", ["timestamp", "snapshot", "root", "targets", "r" * 300])
def test_a_name_that_no_role_may_have_is_refused(
    board: Board, repository: Simulator, name: str
) -> None:
    """One of the four, or one that is too long for a file."""
    repository.delegate("kitchen", KITCHEN)
    ref = repository.add_bundle("kitchen-timer", role="kitchen")
    assert repository.targets.delegations is not None
    assert repository.targets.delegations.roles is not None
    repository.targets.delegations.roles["kitchen"].name = name
    repository.publish()
    assert board.code(ref) == "bad-metadata"


def _no_roles(entry: dict[str, Any]) -> None:
    del entry["name"]


def _number(entry: dict[str, Any]) -> None:
    entry["name"] = 7


def _no_patterns(entry: dict[str, Any]) -> None:
    del entry["paths"]


def _both(entry: dict[str, Any]) -> None:
    entry["path_hash_prefixes"] = [""]


def _no_threshold(entry: dict[str, Any]) -> None:
    entry["threshold"] = 0


def _text_threshold(entry: dict[str, Any]) -> None:
    entry["threshold"] = "1"


def _nested(entry: dict[str, Any]) -> None:
    entry["keyids"] = [[], {}]
    entry["threshold"] = "1"


def _many_keys(entry: dict[str, Any]) -> None:
    entry["keyids"] = [f"{n:064}" for n in range(17)]


@pytest.mark.parametrize(
    "change",
    [_no_roles, _number, _no_patterns, _both, _no_threshold, _text_threshold, _nested, _many_keys],
)
def test_a_delegation_that_is_not_well_formed_is_refused(
    board: Board, kitchen: BundleRef, repository: Simulator, change: Callable[[Any], None]
) -> None:
    """With one clear error, signed or not; the board goes on."""
    data = json.loads(repository.sign(repository.targets))
    change(data["signed"]["delegations"]["roles"][0])
    signer = repository.signers["targets"][0]
    text = _canonical(data["signed"])
    data["signatures"] = [signer.sign(text).to_dict()]
    path = f"metadata/{repository.targets.version}.targets.json"
    repository.served[path] = json.dumps(data, sort_keys=True).encode()
    assert board.code(kitchen) == "bad-metadata"


def _canonical(signed: dict[str, Any]) -> bytes:
    from securesystemslib.formats import encode_canonical

    text = encode_canonical(signed)
    assert text is not None
    return text.encode()


def test_a_role_is_asked_by_the_hash_of_a_name_too(board: Board, repository: Simulator) -> None:
    """The other way in which the specification lets a role be given names."""
    repository.delegate("kitchen", KITCHEN)
    assert repository.targets.delegations is not None
    assert repository.targets.delegations.roles is not None
    entry = repository.targets.delegations.roles["kitchen"]
    digest = hashlib.sha256(b"bundles/kitchen-timer/1.0.0/manifest.json").hexdigest()
    entry.paths, entry.path_hash_prefixes = None, [digest[:3]]
    ref = repository.add_bundle("kitchen-timer", role="kitchen")
    repository.publish()
    assert board.look(ref)["release"] == 1
    assert board.code(repository.add_bundle("kitchen-clock", role="kitchen")) == "not-published"


PART = st.text("ab.*?", max_size=6)


@given(st.lists(st.text("ab.", max_size=6), max_size=3), st.lists(PART, max_size=3))
def test_patterns_cover_on_a_board_what_they_cover_elsewhere(
    process: subprocess.Popen[str], name: list[str], pattern: list[str]
) -> None:
    """Part by part as the agent on Linux does it."""
    name, pattern = name or [""], pattern or [""]
    expected = len(name) == len(pattern) and all(map(fnmatchcase, name, pattern))
    assert ask(process, matches=["/".join(name), "/".join(pattern)]) is expected
