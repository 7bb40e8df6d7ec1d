"""An agent's one configuration file (``agent.yaml``): enrolment writes it, the agent reads it.

Keys, certificates and the root of trust are inside, so that one file provisions a device.
Relative paths are relative to the file.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from contracts import limits
from contracts.messages import DeviceLabels, Name


class TlsConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Mutual TLS. Each value is PEM text, or the path of a PEM file.

    Attributes:
        ca: of authorities that count beside the system's.
        certificate, key: what we show; None: nothing.
        server_name: that the broker's certificate names, if not `host`; MicroPython alone.
    """

    ca: str = ""
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None


def endpoint(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class MqttConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How to reach the broker.

    Attributes:
        host, port: of the broker.
        tls: None: plain TCP, which is accepted for loopback addresses only.
        keepalive_s: seconds between pings.
        session_expiry_s: how long the broker keeps the session of a device that is away.
        username, password: for brokers without client certificates.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    tls: TlsConfig | None = None
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=limits.MAX_KEEPALIVE_S)] = 30
    session_expiry_s: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 24 * 3600
    username: str | None = None
    password: str | None = None

    @property
    def where(self) -> str:
        """Host and port, for people."""
        return endpoint(self.host, self.port)


class SourceConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A local source of text: each line is classified; the result goes out, the text does not.

    Attributes:
        name: of the source, in results.
        kind: ``file`` (tail, follows rotation), ``stdin``, ``unix`` (line-based socket),
            ``mqtt`` (a topic of a local broker).
        path: the file or socket; the topic for ``mqtt``.
        slot: which model classifies.
        share_text: whether the text itself may leave the device.
        share: ``hard``: hard examples of this source may leave, redacted, when the fleet asks;
            ``ask``: once the owner approves a request.
    """

    name: Name
    kind: Literal["file", "stdin", "unix", "mqtt"]
    path: str = ""
    slot: Name = "classify"
    share_text: bool = False
    mqtt: MqttConfig | None = None
    share: Literal["ask", "hard"] = "ask"


class ServingConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits of serving.

    Attributes:
        queue: requests that may wait; one more is answered ``busy``.
        rate_per_s: requests a second of one requester; 0: no limit.
        memory_bytes: that all loaded models may take; 0: the board's.
        threads: of inference; 0: the board's.
        accelerator: ``none``: classifiers run on the processor; ``auto``: on the GPU or NPU that
            LiteRT offers, or by the library of a TensorFlow Lite delegate, if it is an absolute
            path: where it gives the same answers in less time, by a test on this device.
    """

    queue: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    rate_per_s: Annotated[float, msgspec.Meta(ge=0)] = 0
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    accelerator: Annotated[str, msgspec.Meta(pattern=r"^(none|auto|/.{1,255})$")] = "none"


class RedactConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is taken out of a hard example before it leaves, beside e-mails, links and numbers.

    Attributes:
        names: words with a capital letter that do not begin a sentence. In languages that write
            all nouns so (German) it takes most of a text; list `words` there.
        words: taken out wherever they are, in any case.
        patterns: regular expressions; what takes too long lets nothing leave.
    """

    names: bool = True
    words: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=64)]],
        msgspec.Meta(max_length=1000),
    ] = []
    patterns: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=200)]],
        msgspec.Meta(max_length=32),
    ] = []


class ExamplesConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Texts with which the models have a hard time: on the device alone, encrypted.

    Attributes:
        keep: whether any is kept.
        below: confidence below which an answer is hard.
        near: distance from the threshold of ``unknown`` within which it is.
        max_bytes: of all; the least useful goes first.
        max_age_s: of each.
        share: of texts that somebody asked about: ``hard``: they may leave, redacted, when the
            fleet asks; ``ask``: once the owner approves a request (``shoal-agent samples``);
            ``never``: none leaves, nor of a source.
        redact: what is taken out before.
    """

    keep: bool = False
    below: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    near: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    max_bytes: Annotated[int, msgspec.Meta(ge=4096, le=2**30)] = 1024 * 1024
    max_age_s: Annotated[float, msgspec.Meta(gt=0)] = 30 * 24 * 3600.0
    share: Literal["ask", "hard", "never"] = "ask"
    redact: RedactConfig = RedactConfig()


class AgentConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """``agent.yaml``.

    Attributes:
        schema: 1.
        fleet, device: names.
        board: a board profile.
        state_dir: where models, journal and spool live.
        mqtt: the broker.
        repository_url: base URL of the repository over HTTP(S); None: blocks over MQTT.
        renewal_url: where the agent asks for its next certificate; None: it does not.
        trust_root: the text of the fleet's TUF ``root.json``.
        labels, groups: what the device reports of itself, and whose requests it hears. What
            selectors mean by a label is kept by the controller.
        sources: local sources of text.
        telemetry_s: seconds between telemetry samples while something happens.
        idle_s: the same while nothing does; a shorter one than `telemetry_s` has no effect.
        spool_bytes, spool_age_s: bounds of the telemetry spool.
        prometheus_port: serve metrics on loopback; 0: off.
        home_assistant: publish Home Assistant MQTT discovery.
        share_logs: operators may read the agent's log over the fleet; it holds no texts.
        examples: hard examples, for ``shoal-agent samples``; none unless it says ``keep``.
    """

    fleet: Name
    device: Name
    board: Name
    trust_root: str
    schema: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    state_dir: str = "state"
    mqtt: MqttConfig = MqttConfig()
    repository_url: str | None = None
    renewal_url: str | None = None
    labels: DeviceLabels = {}
    groups: list[Name] = []
    sources: list[SourceConfig] = []
    serving: ServingConfig = ServingConfig()
    telemetry_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 10.0
    idle_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 900.0
    spool_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 16 * 1024 * 1024
    spool_age_s: Annotated[float, msgspec.Meta(gt=0)] = 7 * 24 * 3600.0
    prometheus_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    home_assistant: bool = False
    share_logs: bool = True
    examples: ExamplesConfig = ExamplesConfig()
