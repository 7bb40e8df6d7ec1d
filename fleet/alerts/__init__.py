"""Alerts, pure: what a rule says, and when what is measured opens or resolves an alert.

Not here: a store, a clock, a message: :mod:`fleet.lookout` measures and tells.
"""
