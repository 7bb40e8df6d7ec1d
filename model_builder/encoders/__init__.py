"""Sentence encoders: the network, its weights from outside, its training. Knows no recipe."""
