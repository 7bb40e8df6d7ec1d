"""Labelled text as people keep it: tables of any usual kind, read the same by every side.

Not here: cleaning, splitting and anything else that only a build does.
"""
