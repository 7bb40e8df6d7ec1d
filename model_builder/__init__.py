"""The builder: teacher -> distilled student -> int8 -> bundle with proof.

Not here: anything that a device or a controller needs while it runs.
"""
