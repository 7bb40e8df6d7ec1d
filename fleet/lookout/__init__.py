"""Looks at the fleet by its alert rules, and tells people.

Not here: what a rule means (:mod:`fleet.alerts`), and how mail or webhooks are sent.
"""
