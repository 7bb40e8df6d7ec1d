"""A MicroPython device of 256 KB joins a fleet, serves, updates, refuses and rolls back.

Over 400 lines: one simulated board, from joining to leaving.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time

import msgspec
import pytest

from contracts import blocks, codec
from contracts.blocks import Block
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.messages import Reported
from contracts.requests import ClassifyRequest, GenerateRequest, SelftestRequest, StatusRequest
from fleet.repository import delegation
from fleet.repository.repository import Repository
from tests.fleet.repository.test_delegation import Publisher
from tests.micro import bundles, device
from tests.micro.conftest import DATA
from tests.micro.controller import enrol
from tests.support.refusing import Broker


def _ref(version: str):
    return Bundle.open(DATA / f"tiny-classifier-{version}").ref


def test_a_device_joins_updates_answers_and_reports(controller, devices):
    """From enrolment to two updates: status, update events, answers and the reported document."""
    folder = devices.enrol("chip")
    devices.start(folder)
    status = controller.wait("online", lambda _, k, m: k == "status" and m.state == "online")
    assert status.session == 1
    controller.desire("chip", 1, _ref("1.0.0"))
    controller.wait_update("committed", 1)
    states = [m.state for _, k, m in controller.heard if k == "update" and m.revision == 1]
    assert states == [
        "downloading", "verified", "fits", "self-tested", "trial", "committed",
    ]  # fmt: skip
    golden = Bundle.open(DATA / "tiny-classifier-1.0.0").golden()
    for vector in golden[:8]:
        (answer,) = controller.ask("chip", "classify", ClassifyRequest(text=vector.text))
        assert answer.classified is not None
        assert answer.classified.top[0].label == vector.label
        assert answer.classified.bundle == _ref("1.0.0")
    controller.desire("chip", 2, _ref("1.1.0"))
    controller.wait_update("committed", 2)
    reported = controller.wait(
        "the report",
        lambda _, k, m: k == "reported" and m.desired_revision == 2,
    )
    slot = reported.slots["classify"]
    assert slot.active == _ref("1.1.0")
    assert slot.previous == _ref("1.0.0")
    assert not slot.trial
    assert reported.last_update.state == "committed"
    assert reported.runtime == "micropython"


def _reached(controller, revision):
    return controller.wait(
        f"revision {revision} reached",
        lambda _, kind, m: kind == "reported" and m.desired_revision == revision,
    )


def test_a_slot_that_is_not_desired_is_emptied(controller, devices):
    """A first model that is taken back serves no more, also after a restart; another may come."""
    folder = devices.enrol("chip")
    process = devices.start(folder)
    controller.desire("chip", 1, _ref("1.0.0"))
    controller.wait_update("committed", 1)
    controller.desire_slots("chip", 2, {})
    assert _reached(controller, 2).slots == {}
    (answer,) = controller.ask("chip", "classify", ClassifyRequest(text="lights"))
    assert answer.error is not None and answer.error.code == "no-model"
    (slot,) = folder.rglob("slots/classify")
    assert [path.name for path in slot.iterdir()] == ["slot.json"]
    process.kill()
    process.wait(10)
    devices.start(folder)
    (answer,) = controller.ask("chip", "classify", ClassifyRequest(text="lights"))
    assert answer.error is not None and answer.error.code == "no-model"
    controller.desire("chip", 3, _ref("1.1.0"))
    controller.wait_update("committed", 3)


def test_a_slot_is_emptied_in_its_trial_and_the_next_trial_is_a_whole_one(controller, devices):
    """The time of a trial that was cut short does not count for the next bundle."""
    devices.start(devices.enrol("chip"))
    controller.desire("chip", 1, _ref("1.0.0"), seconds=2)
    controller.wait_update("trial", 1)
    controller.desire_slots("chip", 2, {})
    assert _reached(controller, 2).slots == {}
    controller.desire("chip", 3, _ref("1.1.0"), seconds=2)
    began = controller.wait_update("trial", 3).at
    assert controller.wait_update("committed", 3).at - began >= 1


def test_what_is_active_beside_a_shadow_comes_though_the_shadow_cannot(controller, devices):
    """A board has no memory for a shadow; the bundle beside it is what serves."""
    devices.start(devices.enrol("chip"))
    wish = DesiredBundle(_ref("1.1.0"), "shadow", TrialRules(seconds=0.3), beside=_ref("1.0.0"))
    controller.desire_document("chip", Desired(1, {"classify": wish}))
    refused = controller.wait_update("refused", 1)
    assert (refused.bundle, refused.reason.code) == (_ref("1.1.0"), "not-supported")
    assert controller.wait_update("committed", 1).bundle == _ref("1.0.0")


def _waits(controller, code):
    return controller.wait(
        f"the report of {code}",
        lambda _, kind, m: kind == "reported" and [w.reason.code for w in m.waits] == [code],
    )


def test_one_document_cannot_shut_out_all_later_ones(controller, devices):
    """A revision far ahead is refused and told; the next owner's fence begins them anew."""
    folder = devices.enrol("chip")
    process = devices.start(folder)
    wish = {"classify": DesiredBundle(_ref("1.0.0"), trial=TrialRules(seconds=0.2))}
    next_ = {"classify": DesiredBundle(_ref("1.1.0"), trial=TrialRules(seconds=0.2))}
    controller.desire_document("chip", Desired(5, wish, fence=7))
    _reached(controller, 5)
    controller.desire_document("chip", Desired(2**53 - 1, {}, fence=7))
    refused = _waits(controller, "revision-jump").waits[0].reason
    assert (refused.detail["known_fence"], refused.detail["known_revision"]) == (7, 5)
    controller.desire_document("chip", Desired(6, next_, fence=6))
    assert _waits(controller, "old-fence").slots["classify"].active == _ref("1.0.0")
    # Within the step, and retained: whoever wrote it is gone, and the fence with it.
    controller.desire_document("chip", Desired(9000, {}, fence=7))
    assert _reached(controller, 9000).slots == {}
    process.kill()
    process.wait(10)
    devices.start(folder)
    controller.desire_document("chip", Desired(6, next_, fence=8))
    reported = _reached(controller, 6)
    assert reported.desired_fence == 8
    assert reported.waits == []
    assert reported.slots["classify"].active == _ref("1.1.0")


def test_a_second_document_in_a_trial_is_reached_at_its_end(controller, devices):
    """Also when it asks for the same bundle, whose trial an older one began."""
    devices.start(devices.enrol("chip"))
    controller.desire("chip", 1, _ref("1.0.0"), seconds=2)
    controller.wait_update("trial", 1)
    controller.desire("chip", 2, _ref("1.0.0"), seconds=2)
    assert not _reached(controller, 2).slots["classify"].trial


def test_a_heap_of_192_kib_is_enough_for_a_model_of_200_kb(controller, devices, tmp_path):
    """A full-size classifier is installed, answers, and gives way to its next version."""
    versions = [
        bundles.write(tmp_path / version, "large", version, seed=seed, large=True)
        for seed, version in ((1, "1.0.0"), (2, "1.1.0"))
    ]
    devices.start(devices.enrol("small"), heap="192k")
    for revision, bundle in enumerate(versions, 1):
        controller.repository.publish(bundle)
        controller.desire("small", revision, bundle.ref)
        controller.wait_update("committed", revision)
        (answer,) = controller.ask("small", "classify", ClassifyRequest(text=bundles.TEXTS[0]))
        assert answer.classified is not None
        assert answer.classified.bundle == bundle.ref


def test_a_device_without_memory_for_an_update_says_so_and_goes_on(controller, devices, tmp_path):
    """Where memory runs out in an update, the update is refused and the old bundle serves."""
    versions = [
        bundles.write(tmp_path / version, "large", version, seed=seed, large=True)
        for seed, version in ((1, "1.0.0"), (2, "1.1.0"))
    ]
    for bundle in versions:
        controller.repository.publish(bundle)
    folder = devices.enrol("narrow")
    process = devices.start(folder)
    controller.desire("narrow", 1, versions[0].ref)
    controller.wait_update("committed", 1)
    process.kill()
    process.wait()
    devices.start(folder, heap="160k")
    controller.desire("narrow", 2, versions[1].ref)
    assert controller.wait_update("refused", 2).reason.code == "out-of-memory"
    (answer,) = controller.ask("narrow", "classify", ClassifyRequest(text=bundles.TEXTS[0]))
    assert answer.classified.bundle == versions[0].ref


def test_a_bundle_that_a_publisher_signed_elsewhere_reaches_a_board(
    controller, devices, tmp_path
) -> None:
    """Through the whole agent, its heap held to a board's."""
    bundle = bundles.write(tmp_path / "bundle", "kitchen-timer", "1.0.0", seed=3)
    publisher = Publisher(tmp_path / "publisher")
    delegation.delegate(controller.repository, "kitchen", ["kitchen-*"], publisher.public)
    delegation.take_in(controller.repository, publisher.sign(bundle), [bundle])
    folder = devices.enrol("chip")
    devices.start(folder)
    controller.desire("chip", 1, bundle.ref)
    controller.wait_update("committed", 1)


def _refused(controller, devices, name: str, *, revision: int = 1, version: str = "1.0.0"):
    """Starts a device, asks for a bundle, and returns the reason of its refusal."""
    folder = devices.enrol(name)
    devices.start(folder)
    controller.desire(name, revision, _ref(version))
    event = controller.wait_update("refused", revision)
    assert event.reason is not None
    reported = controller.wait(
        "the report",
        lambda _, k, m: k == "reported" and m.boot == event.boot and m.desired_revision == revision,
    )
    assert reported.slots.get("classify") is None or reported.slots["classify"].active is None
    assert reported.last_update.reason == event.reason
    return event.reason


def _when(prefix: str, change):
    """Spoils the blocks of paths that begin with `prefix`."""
    return lambda request, payload: (
        change(request, payload) if request.path.startswith(prefix) else payload
    )


def test_targets_signed_by_a_stranger_are_refused(controller, devices, tmp_path):
    """A repository with other keys, in the place of the fleet's, is not believed."""
    strange = Repository.create(tmp_path / "strange", tmp_path / "strange-keys")
    strange.publish(Bundle.open(DATA / "tiny-classifier-1.0.0"))
    folder = devices.enrol("chip")
    controller.repository = strange
    devices.start(folder)
    controller.desire("chip", 1, _ref("1.0.0"))
    assert controller.wait_update("refused", 1).reason.code == "wrong-signature"


def test_a_changed_targets_file_is_refused(controller, devices):
    """One other digit in the signed list breaks its signature."""
    controller.spoil = _when(
        "metadata/3.targets", lambda _, payload: payload.replace(b'"release":1', b'"release":9')
    )
    assert _refused(controller, devices, "chip").code == "wrong-signature"


def test_older_metadata_than_was_seen_is_refused(controller, devices):
    """Serving an old, rightly signed list again does not take a device back."""
    folder = devices.enrol("chip")
    devices.start(folder)
    controller.desire("chip", 1, _ref("1.1.0"))
    controller.wait_update("committed", 1)
    old = controller.repository.folder / "metadata" / "2.targets.json"
    (controller.repository.folder / "metadata" / "3.targets.json").write_bytes(old.read_bytes())
    controller.desire("chip", 2, _ref("1.0.0"))
    assert controller.wait_update("refused", 2).reason.code == "rollback"


def test_an_older_release_is_refused_but_the_previous_one_is_a_way_back(controller, devices):
    """A committed release is a floor for downloads; the bundle kept beside it may serve again."""
    folder = devices.enrol("chip")
    devices.start(folder)
    controller.desire("chip", 1, _ref("1.1.0"))
    controller.wait_update("committed", 1)
    controller.desire("chip", 2, _ref("1.0.0"))
    reason = controller.wait_update("refused", 2).reason
    assert reason.code == "rollback"
    assert "release 1" in reason.message
    reported = controller.wait(
        "the report", lambda _, k, m: k == "reported" and m.desired_revision == 2
    )
    assert reported.slots["classify"].active == _ref("1.1.0")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _, payload: payload[:10], "bad-block"),
        (lambda _, payload: payload[:16], "bad-block"),
        (lambda _, payload: payload + b"x" * 200, "bad-block"),
        (lambda r, p: blocks.pack("another", blocks.unpack(r.id, p)), "bad-block"),
        (lambda r, p: blocks.pack(r.id, Block(7, 99, b"other range")), "bad-block"),
        (lambda _, payload: payload[:-1] + bytes([payload[-1] ^ 1]), "wrong-hash"),
        (lambda r, p: blocks.pack(r.id, Block(r.offset, 2**30, p[16:])), "wrong-size"),
    ],
    ids=[
        "shorter than its header", "empty", "longer than asked", "of another request",
        "of another range", "with a flipped bit", "of a file that grew",
    ],
)  # fmt: skip
def test_damaged_blocks_are_refused_with_the_reason(controller, devices, change, code):
    """Nothing that a block says is believed; the device goes on and reports why."""
    controller.spoil = _when("blobs/", change)
    assert _refused(controller, devices, "chip").code == code
    controller.spoil = lambda _, payload: payload
    controller.desire("chip", 2, _ref("1.0.0"))
    controller.wait_update("committed", 2)


def test_a_model_that_does_not_fit_is_refused_before_it_is_fetched(controller, devices, tmp_path):
    """The manifest says that the arena is larger than the board gives: no model byte is asked."""
    large = bundles.write(tmp_path / "large", "large", "1.0.0", seed=1, arena_bytes=2**20)
    ref = controller.repository.publish(large)
    asked = []

    def watch(request, payload):
        asked.append(request.path)
        return payload

    controller.spoil = watch
    devices.start(devices.enrol("chip"))
    controller.desire("chip", 1, ref)
    reason = controller.wait_update("refused", 1).reason
    assert reason.code == "does-not-fit"
    assert "memory" in reason.message
    assert not [path for path in asked if path.startswith("blobs/")]


def test_bad_requests_are_answered_or_ignored_and_the_device_goes_on(controller, devices):
    """Requests that are no JSON, too long or unknown do not stop a device."""
    devices.start(devices.enrol("chip"))
    controller.desire("chip", 1, _ref("1.0.0"))
    controller.wait_update("committed", 1)
    for body in (b"", b"\xff\xfe", b"[]", b'{"text": 5}', b'{"id": "../x", "text": "a"}'):
        controller.send("chip", "classify", body)
    (long,) = controller.ask("chip", "classify", ClassifyRequest(text="x" * 2049))
    assert long.error.code == "too-large"
    (strange,) = controller.ask("chip", "dance", StatusRequest())
    assert strange.error.code == "unknown-operation"
    (empty,) = controller.ask("chip", "generate", GenerateRequest(prompt="t=20"))
    assert empty.error.code == "no-model"
    (tested,) = controller.ask("chip", "selftest", SelftestRequest())
    golden = Bundle.open(DATA / "tiny-classifier-1.0.0").golden()
    assert tested.selftested.vectors == tested.selftested.passed == len(golden)
    (status,) = controller.ask("chip", "status", StatusRequest())
    assert status.reported.slots["classify"].active == _ref("1.0.0")
    (answer,) = controller.ask("chip", "classify", ClassifyRequest(text="turn on the light"))
    assert answer.classified is not None


def test_three_restarts_in_a_trial_roll_back(controller, devices):
    """A bundle whose trial is interrupted again and again gives way to the one before."""
    folder = devices.enrol("chip")
    process = devices.start(folder)
    controller.desire("chip", 1, _ref("1.0.0"))
    controller.wait_update("committed", 1)
    controller.desire("chip", 2, _ref("1.1.0"), seconds=600)
    controller.wait_update("trial", 2)
    for restart in range(3):
        process.kill()
        process.wait()
        process = devices.start(folder)
        session = 2 + restart
        controller.wait(
            f"restart {restart}",
            lambda _, k, m, s=session: k == "status" and m.state == "online" and m.session == s,
        )
    reported = controller.wait(
        "the report", lambda _, k, m: k == "reported" and m.desired_revision == 2
    )
    assert reported.slots["classify"].active == _ref("1.0.0")
    assert reported.last_update.state == "rolled-back"
    assert reported.last_update.reason.code == "trial-restarts"


@pytest.mark.parametrize(
    "trial",
    ["[]", "3", '{"max_restarts": 1e999, "min_requests": 1e999, "seconds": "long"}',
     '{"seconds": -1, "max_error_rate": null, "max_restarts": true}'],
)  # fmt: skip
def test_trial_rules_that_are_none_are_the_usual_ones(controller, devices, trial):
    """A document that no controller writes does not end the task that updates."""
    devices.start(devices.enrol("chip"))
    controller.wait("online", lambda _, k, m: k == "status" and m.state == "online")
    ref = json.dumps(msgspec.to_builtins(_ref("1.0.0")))
    slots = f'{{"classify": {{"bundle": {ref}, "trial": {trial}}}}}'
    document = f'{{"revision": 1, "slots": {slots}}}'
    topic = controller.topics.of_device("chip", "desired")
    controller.publish(topic, document.encode(), retain=True)
    controller.wait_update("trial", 1)
    controller.desire("chip", 2, _ref("1.1.0"))
    controller.wait_update("committed", 2)


def test_a_flash_that_refuses_is_told_and_the_next_wish_is_carried_out(controller, devices):
    """The task that updates outlives an error of the file system."""
    folder = devices.enrol("chip")
    devices.start(folder)
    controller.wait("online", lambda _, k, m: k == "status" and m.state == "online")
    controller.desire("chip", 1, _ref("1.0.0"))
    controller.wait_update("committed", 1)
    (slot,) = folder.rglob("slots/classify")
    (slot / "b").write_bytes(b"a file where the folder has to be")
    controller.desire("chip", 2, _ref("1.1.0"))
    assert controller.wait_update("refused", 2).reason.code == "disk-error"
    (slot / "b").unlink()
    controller.desire("chip", 3, _ref("1.1.0"))
    controller.wait_update("committed", 3)


def test_nobody_can_guess_the_id_under_which_the_broker_keeps_a_session(tmp_path):
    """It hangs on the private key; without one (loopback) there is no secret."""
    assert device.run("client_id.py", str(tmp_path)) == "shoal-reef-chip"
    (tmp_path / "key.der").write_bytes(b"a private key")
    digest = hashlib.sha256(b"shoal client id v1\0a private key").hexdigest()
    assert device.run("client_id.py", str(tmp_path)) == f"shoal-reef-chip-{digest[:32]}"


def test_the_broker_says_offline_when_a_device_vanishes(controller, devices):
    """The will names the session that ended, so that it cannot hide a newer one."""
    process = devices.start(devices.enrol("chip"))
    controller.wait("online", lambda _, k, m: k == "status" and m.state == "online")
    process.kill()
    will = controller.wait("offline", lambda _, k, m: k == "status" and m.state == "offline")
    assert will.session == 1


def test_a_group_that_the_broker_refuses_costs_the_group_alone(tmp_path):
    """The device is online, goes on sending, and reports what it may not."""
    refused = {"shoal/v1/f/g/attic/req/+": 0x87}
    broker = Broker(
        lambda topic: 0x87 if topic.endswith("/telemetry") else 0,
        lambda topic: refused.get(topic, 1),
    )
    folder = enrol(tmp_path / "chip", "chip", "f", MqttConfig(port=broker.port), b"{}")
    path = folder / "shoal.json"
    config = json.loads(path.read_text())
    mqtt = {**config["mqtt"], "keepalive_s": 300}  # this broker answers no pings
    changes = {"groups": ["attic"], "telemetry_s": 0.2, "mqtt": mqtt}
    path.write_text(json.dumps({**config, **changes}))
    process = subprocess.Popen(
        device.command("device.py", str(folder)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=device.environment(),
    )
    try:
        deadline = time.monotonic() + 120
        # What is refused is no success: it comes again after half a minute.
        while sum(topic.endswith("/telemetry") for topic, _ in broker.heard) < 2:
            assert time.monotonic() < deadline, broker.heard
            threading.Event().wait(0.05)
        documents = [data for topic, data in broker.heard if topic.endswith("/reported")]
        found = codec.decode(documents[-1], Reported, what="reported")
        assert [wait.reason.code for wait in found.waits] == ["not-allowed"]
        assert "subscribe to shoal/v1/f/g/attic/req/+" in found.waits[0].reason.message
        assert not found.waits[0].blocks
        assert broker.connections == 1
    finally:
        process.kill()
        process.wait(10)
        broker.close()
