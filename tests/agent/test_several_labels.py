"""A real agent with a bundle that gives a text several labels: answers, counts, feedback."""

from __future__ import annotations

from pathlib import Path

from contracts.config import MqttConfig
from contracts.messages import Sample, Telemetry
from tests.support.controller import TINY, AgentProcess, Controller, make_repository
from tests.support.several import expected, of_several


def test_several_labels_go_over_mqtt_and_each_is_counted(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """The bundle comes by an update; answers name all labels, and telemetry counts each."""
    bundle = of_several(tmp_path / "bundle")
    repository = make_repository(tmp_path, TINY, bundle.path)
    vector = next(v for v in bundle.golden() if len(expected(bundle, v.output)) == 2)
    silent = next(v for v in bundle.golden() if not expected(bundle, v.output))
    labels = expected(bundle, vector.output)
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        revision = controller.want(agent.device, bundle.ref)
        assert controller.wait_final(revision).state == "committed"
        answer = controller.ask(agent.device, "classify", text=vector.text)
        assert answer.classified is not None
        assert [one.label for one in answer.classified.labels or []] == labels
        assert answer.classified.label == labels[0]
        none = controller.ask(agent.device, "classify", text=silent.text).classified
        assert none is not None
        assert (none.label, none.labels, none.best) == ("unknown", [], silent.label)
        half = controller.ask(agent.device, "feedback", answer=answer.id, labels=labels[:1])
        assert half.noted is not None
        assert not half.noted.right

        def whole() -> list[Sample]:
            samples = [s for t in controller.of(Telemetry) for s in t.samples]
            return [s for s in samples if s.bundle == bundle.ref]

        controller.wait_for(
            Telemetry,
            lambda _: (
                sum(s.requests for s in whole()) == 2 and any(s.judged is not None for s in whole())
            ),
        )
        counts: dict[str, int] = {}
        for sample in whole():
            for name, count in sample.labels.items():
                counts[name] = counts.get(name, 0) + count
        assert counts == {labels[0]: 1, labels[1]: 1, "unknown": 1}
        judged = next(s.judged for s in whole() if s.judged is not None)
        assert (judged.wrong, judged.several) == (1, 1)
        assert judged.labels == {labels[0]: 1}
        assert judged.confusions == {labels[1]: {"unknown": 1}}
