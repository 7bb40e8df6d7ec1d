"""The controller's own MQTT connections: sending what is desired, asking devices, blocks.

Not here: what a message means: ingest, rollouts and queries know that.
"""
