"""The commands of ``shoal-agent`` and of ``python -m agent``."""
