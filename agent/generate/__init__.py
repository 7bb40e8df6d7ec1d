"""Runs generative bundles: cache, sampling, constraints, streaming."""
