"""The controller's own MQTT connections: sending what is desired, asking devices, blocks."""
