"""Processes that do rare or risky work and end: how they start, their limits, their silence."""
