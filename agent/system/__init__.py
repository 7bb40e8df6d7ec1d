"""The device underneath: clock, files, log, systemd, state. Knows nothing of models or MQTT.

Not here: anything that only this product has: it could serve another daemon.
"""
