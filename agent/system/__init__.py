"""The device underneath: clock, files, log, systemd, state. Knows nothing of models or MQTT."""
