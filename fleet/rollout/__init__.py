"""Rollouts: selectors, specification, state, gates, and the engine that moves devices in waves.

Not here: a store, a clock, a connection: facts come in, decisions go out
(:mod:`fleet.conductor`).
"""
