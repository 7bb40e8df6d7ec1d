"""Labelled text: reading it, cleaning it, splitting it, sampling it from templates.

Not here: networks, and where text comes from that nobody wrote (:mod:`model_builder.writing`).
"""
