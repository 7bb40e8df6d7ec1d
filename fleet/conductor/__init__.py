"""Runs the rollout engine: facts from the store in, decisions into the store and the outbox."""
