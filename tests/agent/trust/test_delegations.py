"""Delegated roles against the device's trust: what a publisher may sign, and nothing beyond.

After the delegation tests of the public conformance suite for TUF clients, on the interface by
which an agent reads a repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tuf.api.metadata import MetaFile

from agent.trust import delegations
from agent.trust.client import Trust
from contracts.errors import RefusedError
from contracts.messages import BundleRef
from tests.support.tuf_simulator import NOW, Simulator, new_signer

KITCHEN = "bundles/kitchen-*/*/manifest.json"
EVERYTHING = "bundles/*/*/manifest.json"


def trust_of(repository: Simulator, folder: Path) -> Trust:
    """A device that asks this repository."""
    return Trust(folder, repository.first_root, repository.fetch, clock=NOW.timestamp)


def code_of(trust: Trust, ref: BundleRef) -> str:
    """Why the newest manifest of a bundle is refused."""
    with pytest.raises(RefusedError) as caught:
        trust.newest(ref)
    return caught.value.code


def asked_roles(repository: Simulator) -> list[str]:
    """The delegated roles that were fetched, in order."""
    found = [re.fullmatch(r"metadata/[0-9]+\.(.+)\.json", path) for path, _ in repository.asked]
    names = [match[1] for match in found if match]
    return [name for name in names if name not in ("root", "snapshot", "targets")]


@pytest.fixture
def kitchen(repository: Simulator) -> BundleRef:
    """A bundle that the role ``kitchen`` signed."""
    repository.delegate("kitchen", KITCHEN)
    ref = repository.add_bundle("kitchen-timer", data=b"{1}", role="kitchen")
    repository.publish()
    return ref


def test_a_bundle_of_a_delegated_role_is_accepted(
    repository: Simulator, kitchen: BundleRef, ref: BundleRef, tmp_path: Path
) -> None:
    """Beside those of the targets role; a restart asks for the role no second time."""
    trust = trust_of(repository, tmp_path)
    assert trust.newest(kitchen) == b"{1}"
    assert trust.release(kitchen) == 1
    assert trust.newest(ref) == b"{}"
    repository.asked.clear()
    assert trust_of(repository, tmp_path).newest(kitchen) == b"{1}"
    assert asked_roles(repository) == []


def test_a_delegated_role_signs_no_name_outside_its_pattern(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path
) -> None:
    """Neither another name, nor one with a separator in it, nor another letter case."""
    for name in ("garage-door", "kitchen-a/b", "Kitchen-timer", "kitchen"):
        outside = repository.add_bundle(name, data=b"{2}", role="kitchen")
        repository.publish()
        repository.asked.clear()
        assert code_of(trust_of(repository, tmp_path), outside) == "not-published"
        assert asked_roles(repository) == []


def test_the_targets_role_is_asked_before_those_it_delegates_to(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path
) -> None:
    """A name that both sign counts as the targets role has it."""
    own = repository.add_bundle("kitchen-timer", data=b"{own}")
    repository.publish()
    trust = trust_of(repository, tmp_path)
    assert trust.newest(own) == b"{own}"
    assert code_of(trust, kitchen) == "wrong-manifest"


@pytest.mark.parametrize("signers", [[], [new_signer()]], ids=["nobody", "a stranger"])
def test_a_delegated_role_signed_by_other_keys_is_refused(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path, signers: list[object]
) -> None:
    """Also when snapshot and timestamp name it: the online keys publish nothing by themselves."""
    repository.publish_delegated("kitchen", signers)  # type: ignore[arg-type]
    repository.snapshot.version += 1
    repository.publish_snapshot()
    repository.timestamp.version += 1
    repository.publish_timestamp()
    assert code_of(trust_of(repository, tmp_path), kitchen) == "wrong-signature"


def test_a_delegated_role_below_its_threshold_is_refused(
    repository: Simulator, tmp_path: Path
) -> None:
    """One of two holders, and one holder who is listed twice."""
    repository.delegate("kitchen", KITCHEN, threshold=2)
    ref = repository.add_bundle("kitchen-timer", role="kitchen")
    repository.publish()
    both = repository.signers["kitchen"]
    assert trust_of(repository, tmp_path / "both").newest(ref)
    repository.signers["kitchen"] = both[:1]
    repository.publish()
    assert code_of(trust_of(repository, tmp_path / "one"), ref) == "wrong-signature"
    listed = repository.targets.delegations
    assert listed is not None
    assert listed.roles is not None
    listed.keys["0" * 64] = listed.keys[both[0].public_key.keyid]
    listed.roles["kitchen"].keyids.append("0" * 64)
    repository.publish()
    assert code_of(trust_of(repository, tmp_path / "twice"), ref) == "wrong-root"


def test_rollback_of_a_delegated_role_is_refused(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path
) -> None:
    """By an older version in the snapshot, and by leaving the role out of it."""
    repository.publish()
    trust = trust_of(repository, tmp_path)
    trust.newest(kitchen)
    repository.delegated["kitchen"].version = 0
    repository.publish()
    assert code_of(trust, kitchen) == "rollback"
    del repository.snapshot.meta["kitchen.json"]
    repository.snapshot.version += 1
    repository.publish_snapshot()
    repository.timestamp.version += 1
    repository.publish_timestamp()
    assert code_of(trust, kitchen) == "bad-metadata"


def test_mix_and_match_of_a_delegated_role_is_refused(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path
) -> None:
    """An older, rightly signed file in the place of the one that the snapshot names."""
    old = repository.served["metadata/1.kitchen.json"]
    repository.publish()
    repository.served["metadata/2.kitchen.json"] = old
    assert code_of(trust_of(repository, tmp_path), kitchen) == "mix-and-match"


def test_mix_and_match_one_delegated_role_is_no_other(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path
) -> None:
    """A role's metadata does not count as that of another, whatever path it comes by."""
    repository.delegate("garage", "bundles/garage-*/*/manifest.json")
    door = repository.add_bundle("garage-door", data=b"{3}", role="garage")
    repository.publish()
    repository.snapshot.meta["garage.json"] = MetaFile(2)  # neither length nor digest
    repository.served["metadata/2.garage.json"] = repository.served["metadata/2.kitchen.json"]
    repository.snapshot.version += 1
    repository.publish_snapshot()
    repository.timestamp.version += 1
    repository.publish_timestamp()
    assert code_of(trust_of(repository, tmp_path), door) == "wrong-signature"


def test_an_expired_delegated_role_stops_its_own_bundles_alone(
    repository: Simulator, kitchen: BundleRef, ref: BundleRef, tmp_path: Path
) -> None:
    """The publisher is named; what others signed goes on."""
    repository.delegated["kitchen"].expires = NOW - timedelta(days=1)
    repository.publish()
    trust = trust_of(repository, tmp_path)
    with pytest.raises(RefusedError, match="its publisher must sign it anew") as caught:
        trust.newest(kitchen)
    assert caught.value.code == "expired"
    assert trust.newest(ref) == b"{}"


def test_a_delegation_that_was_taken_away_counts_no_more(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path
) -> None:
    """Though the role's metadata is still served and stored."""
    trust = trust_of(repository, tmp_path)
    trust.newest(kitchen)
    repository.targets.delegations = None
    repository.publish()
    assert code_of(trust, kitchen) == "not-published"


def test_a_delegation_that_the_snapshot_does_not_name_is_not_even_fetched(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path
) -> None:
    """No role is trusted outside the signed state."""
    del repository.snapshot.meta["kitchen.json"]
    repository.snapshot.version += 1
    repository.publish_snapshot()
    repository.timestamp.version += 1
    repository.publish_timestamp()
    assert code_of(trust_of(repository, tmp_path), kitchen) == "not-published"
    assert asked_roles(repository) == []


def test_one_role_under_two_delegators_is_checked_for_each(
    repository: Simulator, tmp_path: Path
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
    trust = trust_of(repository, tmp_path)
    assert trust.newest(good) == b"{a}"
    with pytest.raises(RefusedError) as caught:
        trust.manifest(bad)
    assert caught.value.code == "wrong-signature"


GRAPHS: dict[str, tuple[list[tuple[str, str, bool]], list[str]]] = {
    "depth first": (
        [("targets", "A", False), ("targets", "B", False), ("A", "C", False), ("C", "D", False)],
        ["A", "C", "D", "B"],
    ),
    "terminating": (
        [("targets", "A", False), ("targets", "B", False), ("A", "C", True), ("A", "D", False)],
        ["A", "C"],
    ),
    "in a circle": (
        [("targets", "A", False), ("A", "B", False), ("B", "A", False), ("B", "C", False)],
        ["A", "B", "C"],
    ),
    "by two delegators": (
        [("targets", "A", False), ("targets", "B", False), ("B", "C", False), ("A", "C", False)],
        ["A", "C", "B"],
    ),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_roles_are_asked_once_each_in_the_order_of_the_specification(
    repository: Simulator, tmp_path: Path, graph: str
) -> None:
    """Depth first; a terminating delegation ends the search in others."""
    edges, order = GRAPHS[graph]
    for by, role, terminating in edges:
        repository.delegate(role, "*", by=by, terminating=terminating)
    repository.publish()
    trust = trust_of(repository, tmp_path)
    with pytest.raises(RefusedError, match="not in the fleet's signed list"):
        trust.download("missing", 1)
    assert asked_roles(repository) == order


@pytest.mark.parametrize("shape", ["wide", "deep"])
def test_a_search_through_very_many_roles_ends(
    repository: Simulator, tmp_path: Path, shape: str
) -> None:
    """Whoever may delegate cannot keep a device busy, nor fill its disk."""
    last = "targets"
    for number in range(delegations.MAX_ROLES + 5):
        role = f"r{number}"
        repository.delegate(role, EVERYTHING, by=last if shape == "deep" else "targets")
        last = role
    ref = repository.add_bundle("needle", role=last)
    repository.publish()
    assert code_of(trust_of(repository, tmp_path), ref) == "too-many-roles"
    most = delegations.MAX_DEPTH if shape == "deep" else delegations.MAX_ROLES
    assert len(asked_roles(repository)) == most


@pytest.mark.parametrize("role", ["?", "#", "/outside", "../outside", "root_history/9.root"])
def test_a_strange_name_of_a_role_stays_inside_the_folder(
    repository: Simulator, tmp_path: Path, role: str
) -> None:
    """A role's name is data: neither a path, nor a part of the syntax of a URL."""
    repository.delegate(role, KITCHEN)
    ref = repository.add_bundle("kitchen-timer", role=role)
    repository.publish()
    trust_of(repository, tmp_path / "trust").newest(ref)
    assert [path.name for path in tmp_path.iterdir()] == ["trust"]
    assert len(list((tmp_path / "trust").glob("*.json"))) == len(
        ("timestamp", "snapshot", "targets", role)
    )


def test_a_role_with_a_name_too_long_for_a_file_is_refused(
    repository: Simulator, tmp_path: Path
) -> None:
    """By name, not by an error of the disk."""
    repository.delegate("r" * 300, KITCHEN)
    ref = repository.add_bundle("kitchen-timer", role="r" * 300)
    repository.publish()
    assert code_of(trust_of(repository, tmp_path), ref) == "bad-metadata"


@pytest.mark.parametrize("name", ["timestamp", "snapshot", "root"])
def test_no_delegated_role_may_be_called_as_one_of_the_four(
    repository: Simulator, tmp_path: Path, name: str
) -> None:
    """It would be stored in the place of the real one."""
    repository.delegate("kitchen", KITCHEN)
    assert repository.targets.delegations is not None
    assert repository.targets.delegations.roles is not None
    repository.targets.delegations.roles["kitchen"].name = name
    repository.publish()
    stranger = BundleRef("x", "1.0.0", "0" * 64)
    assert code_of(trust_of(repository, tmp_path), stranger) == "bad-metadata"


@pytest.mark.parametrize("hashes", [["sha256"], ["sha512"], ["sha256", "sha512"]])
def test_a_manifest_is_accepted_by_the_digests_that_are_known(
    repository: Simulator, tmp_path: Path, hashes: list[str]
) -> None:
    """A fleet may change the kind of its digests; the controller's own pin still counts."""
    ref = repository.add_bundle("hashed", data=b"{4}", hashes=hashes)
    repository.publish()
    assert trust_of(repository, tmp_path).newest(ref) == b"{4}"
    other = BundleRef("hashed", "1.0.0", "0" * 64)
    assert code_of(trust_of(repository, tmp_path), other) == "wrong-manifest"


def broken(entry: dict[str, str]) -> None:
    """Both digests are given, the second is wrong."""
    entry["sha512"] = "0" * 128


def unknown(entry: dict[str, str]) -> None:
    """A digest of a kind that does not exist, alone."""
    entry["shiny"] = entry.pop("sha512")
    del entry["sha256"]


@pytest.mark.parametrize("change", [broken, unknown])
def test_a_manifest_without_a_right_digest_is_refused(
    repository: Simulator, tmp_path: Path, change: Callable[[dict[str, str]], None]
) -> None:
    """Each digest that is known must fit, and one must be known."""
    ref = repository.add_bundle("hashed", hashes=["sha256", "sha512"])
    change(repository.targets.targets["bundles/hashed/1.0.0/manifest.json"].hashes)
    repository.served["targets/bundles/hashed/1.0.0/.manifest.json"] = b"{}"
    repository.publish()
    assert code_of(trust_of(repository, tmp_path), ref) == "wrong-manifest"


def test_an_unknown_bundle_costs_one_refresh(repository: Simulator, tmp_path: Path) -> None:
    """A device that is asked for what is not there does not ask twice."""
    trust = trust_of(repository, tmp_path)
    assert code_of(trust, BundleRef("missing", "1.0.0", "0" * 64)) == "not-published"
    paths = [path for path, _ in repository.asked]
    assert paths.count("metadata/timestamp.json") == 1


def test_what_was_downloaded_before_is_not_asked_for_again(
    repository: Simulator, ref: BundleRef, tmp_path: Path
) -> None:
    """As long as it is what is signed; a damaged copy is fetched anew."""
    trust = trust_of(repository, tmp_path)
    name = "bundles/noise/1.0.0/manifest.json"
    assert trust.download(name, 10) == b"{}"
    repository.asked.clear()
    assert trust.download(name, 10, kept=b"{}") == b"{}"
    assert repository.asked == []
    assert trust.download(name, 10, kept=b"[]") == b"{}"
    assert len(repository.asked) == 1


def test_expiry_of_a_role_is_not_judged_without_a_clock(
    repository: Simulator, kitchen: BundleRef, tmp_path: Path
) -> None:
    """As for the four roles: a device whose clock was never set keeps every other check."""
    repository.delegated["kitchen"].expires = datetime(2026, 1, 2, tzinfo=timezone.utc)
    repository.publish()
    trust = Trust(tmp_path, repository.first_root, repository.fetch, clock=lambda: 0.0)
    assert trust.newest(kitchen) == b"{1}"
