"""Runs the rollout engine: facts from the store in, decisions into the store and the outbox.

Not here: rules of a rollout: they are in :mod:`fleet.rollout`, which it feeds.
"""
