"""The agent's own program on the device: its releases, and the starter that chooses one.

Not here: when a release is taken, tried or given up: that is an update like others
(:mod:`agent.update`).
"""
