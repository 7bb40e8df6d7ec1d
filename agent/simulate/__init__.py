"""Many simulated devices in one process: the agent's protocol over a fake runtime.

Each device has its own MQTT connection and speaks as a real one does; what it would compute
or keep on disk is made up from a scenario, the same for the same seed.
"""
