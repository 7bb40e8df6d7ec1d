"""Text that a model writes: to learn from where nobody has rows.

Not here: training, and rows that somebody has: those are read in :mod:`model_builder.data`.
"""
