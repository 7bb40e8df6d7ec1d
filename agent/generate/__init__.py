"""Runs generative bundles: cache, sampling, constraints, streaming.

Not here: the network, the queue (:mod:`agent.serving`), and how a decoder was made.
"""
