"""The agent's own program on the device: its releases, and the starter that chooses one."""
