"""A version belongs to the bytes that it was first given to; a withdrawn one is not rolled out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle
from contracts.errors import RefusedError
from fleet.cli.app import app
from fleet.controller import Controller
from fleet.folder import Fleet, FleetConfig
from fleet.rollout.spec import RolloutSpec
from fleet.store import bundles, devices
from fleet.store.bundles import Published
from fleet.store.schema import BUNDLE
from tests.support.bundles import noise_bundle

SPEC = RolloutSpec.model_validate({"bundle": "noise", "version": "1.0.0"})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle, not yet published."""
    return noise_bundle(tmp_path / "bundle")


@pytest.fixture
def controller(database_url: str, tmp_path: Path, bundle: Bundle) -> Iterator[Controller]:
    """Of a fleet with the bundle and a device; it is not started."""
    fleet = Fleet.init(tmp_path / "fleet", FleetConfig("home", database=database_url))
    fleet.publish(bundle.path)
    controller = Controller(fleet)
    with controller.store.write() as connection:
        devices.enroll(controller.store, connection, "d1", "raspberry-pi-5", {}, [], 1.0)
    yield controller
    controller.store.close()


def _indexed(controller: Controller) -> Published:
    with controller.store.read() as connection:
        return bundles.find(connection, "noise", "1.0.0")


def _withdraw(controller: Controller) -> None:
    command = ["fleet", "withdraw", "noise", "1.0.0", "--dir", str(controller.fleet.folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output


def test_no_rollout_to_a_withdrawn_bundle_until_it_is_published_again(
    controller: Controller, bundle: Bundle
) -> None:
    """At once after the command; the same bytes make it available again."""
    _withdraw(controller)
    with pytest.raises(RefusedError) as caught:
        controller.runner.create(SPEC, "me")
    assert caught.value.code == "bundle-withdrawn"
    assert _indexed(controller).withdrawn
    ref, release = controller.fleet.publish(bundle.path)
    assert (_indexed(controller).ref, _indexed(controller).release) == (ref, release)
    assert controller.runner.create(SPEC, "me").state.header.target == ref


def test_a_rollout_that_is_under_way_goes_on_being_looked_after(controller: Controller) -> None:
    """A withdrawal stops no step of the engine, for this rollout or another."""
    stored = controller.runner.create(SPEC, "me")
    _withdraw(controller)
    assert controller.runner.tick()
    with controller.store.read() as connection:
        assert devices.get(connection, "d1").rollout == stored.state.id


def test_a_withdrawn_version_is_refused_with_other_bytes_and_the_index_stays(
    controller: Controller, bundle: Bundle, tmp_path: Path
) -> None:
    """Also when it was withdrawn before the signed list remembered that."""
    _withdraw(controller)
    other = noise_bundle(tmp_path / "other", seed=7)
    with pytest.raises(RefusedError) as caught:
        controller.fleet.publish(other.path)
    assert caught.value.code == "version-taken"
    repository = controller.repository
    with repository.locked():
        targets = repository.metadata.targets().signed
        targets.unrecognized_fields.pop("x-shoal-withdrawn", None)
        targets.version += 1
        repository.metadata.write_targets(targets)
    with pytest.raises(RefusedError) as caught:
        controller.fleet.publish(other.path)
    assert caught.value.code == "version-taken"
    assert _indexed(controller).ref == bundle.ref
    assert repository.bundles() == {}


def test_the_index_follows_the_signed_repository(
    controller: Controller, bundle: Bundle, tmp_path: Path
) -> None:
    """Other bytes than it has, as earlier versions let in; withdrawn; and published again."""
    other = noise_bundle(tmp_path / "other", seed=7)
    store = controller.store
    with store.write() as connection:
        connection.execute(BUNDLE.delete())
        bundles.add(store, connection, other.ref, 1, other.manifest_bytes, 1.0, '{"of": 1}')
    controller.index_repository()
    assert (_indexed(controller).ref, _indexed(controller).has_report) == (bundle.ref, False)
    controller.repository.withdraw(bundle.ref)
    controller.index_repository()
    assert _indexed(controller).withdrawn
    ref = controller.repository.publish(bundle)
    controller.index_repository()
    assert (_indexed(controller).ref, _indexed(controller).release) == (ref, 2)
