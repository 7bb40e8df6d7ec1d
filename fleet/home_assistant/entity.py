"""The update entity of one slot of a device, as Home Assistant's MQTT discovery wants it.

Source: home-assistant.io/integrations/update.mqtt. Home Assistant 2024.12 or newer. What runs and
how far an update is comes from the device's own report, what is published from the controller.
"""

from __future__ import annotations

from typing import Any, Final

from contracts import codec, program
from contracts.messages import BundleRef
from contracts.topics import Topics, home_assistant_id

_STATE: Final = (
    "{{% set s = value_json.get('slots', {{}}).get('{slot}', {{}}) %}}"
    "{{% set u = value_json.get('last_update') %}}"
    "{{% set going = u is not none and u.slot == '{slot}'"
    " and u.state not in ('committed', 'refused', 'rolled-back') %}}"
    "{{% set total = u.get('total_bytes', 0) if going else 0 %}}"
    "{{{{ dict({{'in_progress': going, 'update_percentage':"
    " (100 * u.get('done_bytes', 0) / total) | round | int if total else none}},"
    " **({{'installed_version': s.active.version}} if s.get('active') else {{}})) | tojson }}}}"
)
_OFFER: Final = (
    "{{% set o = value_json.get('slots', {{}}).get('{slot}') %}}"
    "{{{{ o.bundle.version if o else '' }}}}"
)
_NOTE: Final = "{{{{ {{'note': value_json.slots.get('{slot}', {{}}).get('note', '')}} | tojson }}}}"


def document(
    topics: Topics, device: str, slot: str, offered: BundleRef, *, installs: bool
) -> dict[str, Any]:
    """The discovery document.

    Args:
        topics: of the fleet.
        device: its name.
        slot: whose.
        offered: what is installed when somebody asks: no other one, should it be published later.
        installs: whether somebody may.
    """
    unique = home_assistant_id(topics.fleet, device)
    own = topics.of_device(device, "offered")
    found: dict[str, Any] = {
        "name": "Agent" if slot == program.SLOT else f"Model {slot}",
        "unique_id": f"{unique}_published_{slot}",
        "state_topic": topics.of_device(device, "reported"),
        "value_template": _STATE.format(slot=slot),
        "latest_version_topic": own,
        "latest_version_template": _OFFER.format(slot=slot),
        "json_attributes_topic": own,
        "json_attributes_template": _NOTE.format(slot=slot),
        "title": offered.name,
        "device": {"ids": [unique], "name": device, "mf": "Shoal"},
        "origin": {"name": "shoal"},
        "availability": [
            {
                "topic": topics.of_device(device, "status"),
                "value_template": "{{ value_json.state }}",
                "payload_available": "online",
                "payload_not_available": "offline",
            }
        ],
        "qos": 1,
    }
    if installs:
        found["command_topic"] = topics.install(device, slot)
        found["payload_install"] = codec.encode(offered).decode()
    return found
