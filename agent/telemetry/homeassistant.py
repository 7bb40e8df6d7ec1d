"""Home Assistant MQTT discovery, on request: one device with its sensors.

The controller, which knows what is published, adds an update entity for each slot
(``fleet/home_assistant``).

Sources: home-assistant.io/integrations/mqtt (device discovery payload, availability),
/integrations/sensor.mqtt. The entities read the topics of the
protocol through templates, so nothing is sent twice. The generated access control lets a device
write its own :func:`contracts.topics.home_assistant_discovery` where ``fleet.yaml`` has
``home_assistant: true``.
"""

from __future__ import annotations

from typing import Any, Final

import contracts
from contracts.topics import Topics, home_assistant_id

_GAUGE: Final = (
    "{{% set s = value_json.samples | selectattr('gauges', 'defined') | list %}}"
    "{{{{ s[-1].gauges.{name} if s and s[-1].gauges.{name} is defined else none }}}}"
)


def document(topics: Topics, device: str, board_title: str, slots: list[str]) -> dict[str, Any]:
    """The discovery document.

    Args:
        topics: of the fleet.
        device: its name.
        board_title: of the board profile.
        slots: whose update entities an older agent told of itself: they are taken back.
    """
    unique = home_assistant_id(topics.fleet, device)
    telemetry = topics.of_device(device, "telemetry")

    def gauge(name: str, title: str, **more: Any) -> dict[str, Any]:
        return {
            "p": "sensor",
            "name": title,
            "unique_id": f"{unique}_{name}",
            "state_topic": telemetry,
            "value_template": _GAUGE.format(name=name),
            "state_class": "measurement",
            "entity_category": "diagnostic",
            **more,
        }

    parts: dict[str, Any] = {
        "rss": gauge("rss_bytes", "Memory", device_class="data_size", unit_of_measurement="B"),
        "temperature": gauge(
            "temperature_c",
            "Temperature",
            device_class="temperature",
            unit_of_measurement="°C",
        ),
        "queue": gauge("queue", "Waiting requests"),
        "label": {
            "p": "sensor",
            "name": "Last label",
            "unique_id": f"{unique}_label",
            "state_topic": topics.of_device(device, "result"),
            "value_template": "{{ value_json.label }}",
        },
    }
    # Only the platform: Home Assistant removes it.
    parts |= {f"update_{slot}": {"p": "update"} for slot in slots}
    return {
        "dev": {
            "ids": [unique],
            "name": device,
            "mf": "Shoal",
            "mdl": board_title,
            "sw": contracts.__version__,
        },
        "o": {"name": "shoal", "sw": contracts.__version__},
        "availability": [
            {
                "topic": topics.of_device(device, "status"),
                "value_template": "{{ value_json.state }}",
                "payload_available": "online",
                "payload_not_available": "offline",
            }
        ],
        "cmps": parts,
        "qos": 1,
    }
