"""Labelled text: reading it, cleaning it, splitting it, sampling it from templates."""
