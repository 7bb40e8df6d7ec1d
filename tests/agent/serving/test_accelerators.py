"""An accelerator serves what it passed with, is told of, and is let go of when it breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.runtime import acceleration
from agent.runtime.model import Options
from agent.serving.accelerators import NAME, Accelerators
from agent.serving.models import Models
from agent.system.filesystem import Disk
from contracts import codec
from contracts.bundle import Bundle
from contracts.config import AgentConfig, MqttConfig, ServingConfig
from contracts.errors import ErrorInfo, InputError
from contracts.messages import Acceleration, Reported, Status
from tests.support.controller import AgentProcess, Controller, make_repository
from tests.support.fake_accelerator import fake_accelerator
from tests.support.full_disk import full_disk
from tests.support.tiny_decoder import tiny_bundle


def make(root: Path, setting: str, **changes: Any) -> Accelerators:
    """The accelerators of a device whose state folder is `root`."""
    root.mkdir(exist_ok=True)
    options: dict[str, Any] = {"fs": Disk(), "root": root, "options": Options()}
    return Accelerators(setting, **(options | changes))


def passes(folder: Path, accelerator: str, **_: Any) -> Acceleration:
    """A trial that is passed at once."""
    assert Bundle.open(folder)
    return Acceleration(acceleration.name_of(accelerator), used=True, speedup=2.0)


def labels(models: Models, bundle: Bundle) -> list[str]:
    """What the slot answers to the golden texts."""
    with models.use("classify") as model:
        return [model.classify(vector.text).label for vector in bundle.golden()]


def code(found: Acceleration | None) -> str:
    """Why an accelerator is not used."""
    assert found is not None
    assert not found.used
    assert found.reason is not None
    return found.reason.code


def test_a_bundle_that_serves_already_is_tried_and_loaded_anew(
    slow_model: Bundle, tmp_path: Path
) -> None:
    """As at a start with a new setting: it serves on the processor until then."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, "WORKS")
    told: list[None] = []
    one = make(tmp_path / "state", str(library), changed=lambda: told.append(None))
    models = Models(Options(), load=one.load)
    models.activate("classify", slow_model.path)
    assert one.of(slow_model.ref) is None
    before = labels(models, slow_model)
    one.look(models, lambda: False)
    found = one.of(slow_model.ref)
    assert found is not None
    assert found.used, found
    assert told
    assert labels(models, slow_model) == before
    with models.use("classify") as model:  # the library knows golden texts alone
        assert set(model.run("something else entirely").output) == {-128}
    models.close()
    one.close()
    again = make(tmp_path / "state", str(library), attempt=None)  # it is not tried again
    again.consider(slow_model.path, slow_model.ref.manifest_sha256)
    assert again.of(slow_model.ref) == found


def test_an_agent_that_died_with_an_accelerator_uses_none(
    slow_model: Bundle, tmp_path: Path
) -> None:
    """Not after a power cut, of which nothing can be said: then the system has started anew."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, "WORKS")
    boot, state = tmp_path / "boot_id", tmp_path / "state"
    boot.write_text("first\n")
    digest = slow_model.ref.manifest_sha256

    def start() -> Accelerators:
        one = make(state, str(library), attempt=passes, kernel_boot=boot)
        one.consider(slow_model.path, digest)
        one.load(slow_model, Options()).close()
        return one

    start()  # and no goodbye
    boot.write_text("second\n")
    cut = start().of(slow_model.ref)
    assert cut is not None
    assert cut.used
    for _ in range(2):  # it stays so
        assert code(start().of(slow_model.ref)) == "accelerator-died"
    boot.write_text("third\n")
    assert code(start().of(slow_model.ref)) == "accelerator-died"
    newer = fake_accelerator(tmp_path / "newer" / "libfake.so", slow_model, "NEAR")
    newer.replace(library)  # another library is another chance
    assert start().of(slow_model.ref) == Acceleration("libfake.so", used=True, speedup=2.0)


def test_a_goodbye_leaves_no_mark(slow_model: Bundle, tmp_path: Path) -> None:
    """The next start uses it without a trial."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, "WORKS")
    digest = slow_model.ref.manifest_sha256
    for _ in range(3):
        one = make(tmp_path / "state", str(library), attempt=passes)
        one.consider(slow_model.path, digest)
        one.load(slow_model, Options()).close()
        one.close()
        found = one.of(slow_model.ref)
        assert found is not None
        assert found.used


def test_a_device_that_is_lost_while_it_serves_costs_no_answer(
    slow_model: Bundle, tmp_path: Path
) -> None:
    """The request that meets the error is answered by the processor, and all after it."""
    lost = tmp_path / "lost"
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, f'BREAKS_LATER="{lost}"')
    one = make(tmp_path / "state", str(library), attempt=passes)
    one.consider(slow_model.path, slow_model.ref.manifest_sha256)
    models = Models(Options(), load=one.load)
    models.activate("classify", slow_model.path)
    before = labels(models, slow_model)
    lost.touch()
    assert labels(models, slow_model) == before
    assert code(one.of(slow_model.ref)) == "accelerator-failed"
    with models.use("classify") as model:
        assert set(model.run("something else entirely").output) != {-128}
    models.close()


def test_a_library_that_is_gone_at_a_load_leaves_the_processor(
    slow_model: Bundle, tmp_path: Path
) -> None:
    """It passed once, and somebody removed it while the agent ran."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, "WORKS")
    one = make(tmp_path / "state", str(library), attempt=passes)
    one.consider(slow_model.path, slow_model.ref.manifest_sha256)
    library.unlink()
    model = one.load(slow_model, Options())
    assert model.classify(slow_model.golden()[0].text).label == slow_model.golden()[0].label
    model.close()
    assert code(one.of(slow_model.ref)) == "accelerator-failed"


def test_without_a_mark_on_the_disk_nothing_is_accelerated(
    slow_model: Bundle, tmp_path: Path
) -> None:
    """A disk that is full: a crash could not be told from a first start."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, "WORKS")
    one = make(tmp_path / "state", str(library), attempt=passes)
    one.consider(slow_model.path, slow_model.ref.manifest_sha256)
    with full_disk():
        model = one.load(slow_model, Options())
    assert set(model.run("something else entirely").output) != {-128}  # the processor's
    model.close()
    model = one.load(slow_model, Options())
    assert set(model.run("something else entirely").output) == {-128}
    model.close()


@pytest.mark.parametrize("content", [b"", b"{", b'{"passed": 3}', b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    """As after a power cut in an older release."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / NAME).write_bytes(content)
    assert make(tmp_path / "state", "auto").of(None) is None


def test_auto_says_the_reason_that_tells_most(slow_model: Bundle, tmp_path: Path) -> None:
    """What is absent says less than what did not work."""

    def attempt(_: Path, accelerator: str, **__: Any) -> Acceleration:
        said = {"npu": "accelerator-absent", "gpu": "accelerator-slow"}
        return Acceleration(accelerator, reason=ErrorInfo(said[accelerator], "because"))

    one = make(tmp_path / "state", "auto", attempt=attempt)
    one.consider(slow_model.path, slow_model.ref.manifest_sha256)
    assert code(one.of(slow_model.ref)) == "accelerator-slow"


def test_generators_run_on_the_processor_and_say_so(tmp_path: Path) -> None:
    """Nothing is tried with them."""
    bundle = Bundle.open(tiny_bundle(tmp_path / "words"))
    one = make(tmp_path / "state", "auto", attempt=None)
    one.consider(bundle.path, bundle.ref.manifest_sha256)
    assert code(one.of(bundle.ref)) == "accelerator-unsupported"


def test_none_is_asked_for_by_default(slow_model: Bundle, tmp_path: Path) -> None:
    """Nothing is tried, written or told."""
    assert ServingConfig().accelerator == "none"
    one = make(tmp_path / "state", "none", attempt=None)
    one.consider(slow_model.path, slow_model.ref.manifest_sha256)
    one.load(slow_model, Options()).close()
    assert one.of(slow_model.ref) is None
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize("value", ["gpu", "", "lib.so", "AUTO", 3, "/" + "x" * 300])
def test_what_is_no_accelerator_is_refused_by_name(value: object) -> None:
    """When the configuration is read."""
    document = {"schema": 1, "fleet": "f", "device": "d", "serving": {"accelerator": value}}
    with pytest.raises(InputError, match="accelerator"):
        codec.convert_yaml(msgspec.json.encode(document), AgentConfig, what="agent.yaml")


def test_an_agent_reports_its_accelerator_and_outlives_it(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, slow_model: Bundle
) -> None:
    """Used in the trial of the bundle; after a kill the processor serves; a crash is told."""
    library = fake_accelerator(tmp_path / "good" / "libfake.so", slow_model, "WORKS")
    crashing = fake_accelerator(tmp_path / "bad" / "libcrash.so", slow_model, "CRASH_AT_RUN")
    repository = make_repository(tmp_path, slow_model.path)
    text = slow_model.golden()[0]

    def reported(controller: Controller, used: bool, wanted: str = "") -> None:
        def fits(document: Reported) -> bool:
            slot = document.slots.get("classify")
            found = slot.acceleration if slot else None
            if found is None or found.used != used:
                return False
            return used or (found.reason is not None and found.reason.code == wanted)

        controller.wait_for(Reported, fits, timeout_s=240)
        answer = controller.ask("d1", "classify", text=text.text)
        assert answer.classified is not None
        assert answer.classified.label == text.label

    def agent(setting: Path) -> AgentProcess:
        serving = ServingConfig(accelerator=str(setting))
        return AgentProcess(
            tmp_path / "a", mosquitto_broker, fleet_name, repository, device="d1", serving=serving
        )

    with Controller(mosquitto_broker, fleet_name, repository) as controller:
        with agent(library) as one:
            controller.wait_final(controller.want("d1", slow_model.ref))
            reported(controller, True)
            sessions = {s.session for s in controller.of(Status)}
            one.kill()
            one.start()
            controller.wait_for(Status, lambda s: s.state == "online" and s.session not in sessions)
            reported(controller, False, "accelerator-died")
        with agent(crashing):
            reported(controller, False, "accelerator-crashed")
