"""Sentence encoders: the network, its weights from outside, its training. Knows no recipe.

Not here: labels, recipes, and conversion for a device.
"""
