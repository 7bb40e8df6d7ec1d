"""The HTTP API: FastAPI under ``/v1``, health, metrics, and the static repository.

Not here: decisions and statements: a route checks, calls a room, and writes the audit entry.
"""
