"""Asks a device, or the devices of a group, over MQTT 5 with an application's certificate.

    python ask.py HOST PORT FOLDER FLEET APPLICATION TARGET OPERATION [TEXT]

FOLDER is what ``shoal fleet app add`` wrote. TARGET is ``d/kitchen`` (a device) or ``g/downstairs``
(a group). Prints the answers of ten seconds, or the first of a device. Needs paho-mqtt 2.
"""

import json
import secrets
import sys
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

host, port, folder, fleet, application, target, operation, *text = sys.argv[1:]
prefix = f"shoal/v1/{fleet}"
answers = f"{prefix}/a/{application}/ask"
correlation = secrets.token_bytes(8)  # any bytes: they come back with the answer
done = threading.Event()


def connected(client, _userdata, _flags, reason, _properties):
    """Subscribes where the answers are to come."""
    if reason.is_failure:
        sys.exit(f"the broker does not let us in: {reason}")
    client.subscribe(answers, qos=1)


def subscribed(client, _userdata, _mid, _reasons, _properties):
    """Asks, now that an answer would be heard."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = answers
    properties.CorrelationData = correlation
    properties.MessageExpiryInterval = 10
    payload = json.dumps({"text": text[0]} if text else {})
    client.publish(f"{prefix}/{target}/req/{operation}", payload, qos=1, properties=properties)


def answered(_client, _userdata, message):
    """Prints an answer of ours."""
    if message.properties.CorrelationData == correlation:
        print(message.payload.decode(), flush=True)
        if target.startswith("d/") and json.loads(message.payload).get("done", True):
            done.set()


client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
client.tls_set(f"{folder}/ca.pem", f"{folder}/certificate.pem", f"{folder}/key.pem")
client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, answered
client.connect(host, int(port))
client.loop_start()
sys.exit(0 if done.wait(10) or target.startswith("g/") else "no answer within ten seconds")
