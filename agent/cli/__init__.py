"""The commands of ``shoal-agent`` and of ``python -m agent``.

Not here: decisions: a command calls a room and prints what it says.
"""
