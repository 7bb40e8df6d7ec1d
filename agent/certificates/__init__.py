"""The device's own certificate: keys that never leave it, requests, renewal.

Not here: whose certificates count on a broker (the broker), and the roles of the repository
(:mod:`agent.trust`).
"""
