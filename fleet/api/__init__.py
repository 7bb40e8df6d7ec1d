"""The HTTP API: FastAPI under ``/v1``, health, metrics, and the static repository."""
