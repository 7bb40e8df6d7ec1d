"""Rollouts: selectors, specification, state, gates, and the engine that moves devices in waves."""
