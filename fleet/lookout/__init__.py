"""Looks at the fleet by its alert rules, and tells people."""
