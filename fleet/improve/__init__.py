"""The next version of a model from what devices and people said of this one.

Not here: training: it starts the builder as a program.
"""
