"""Updates: from the desired document to a committed bundle, or back, never in between.

Not here: models that run (:mod:`agent.runtime`), signatures (:mod:`agent.trust`), the connection.
"""
