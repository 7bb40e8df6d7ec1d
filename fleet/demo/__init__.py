"""``shoal demo``: the whole path on one machine, from text data to a refused bad model.

Not here: anything that only the demo can do: it runs the commands that a user runs.
"""
