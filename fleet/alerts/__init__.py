"""Alerts, pure: what a rule says, and when what is measured opens or resolves an alert."""
