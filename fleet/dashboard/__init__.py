"""The dashboard: pages for people on the controller's own app.

Data flows one way: :mod:`fleet.dashboard.data` reads the store, a page renders it with a
template (everything escaped) or a chart, and a timer renders it again when it has changed.

Not here: rules and decisions: it shows what other rooms say, and calls them.
"""

from fleet.dashboard.install import mount

__all__ = ["mount"]
