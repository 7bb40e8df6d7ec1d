"""Processes that do rare or risky work and end: how they start, their limits, their silence.

Not here: what a child does: the work is a function of the room that wants it done.
"""
