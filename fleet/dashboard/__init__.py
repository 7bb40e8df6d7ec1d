"""The dashboard: pages for people on the controller's own app.

Data flows one way: :mod:`fleet.dashboard.data` reads the store, a page renders it with a
template (everything escaped) or a chart, and a timer renders it again when it has changed.
"""

from fleet.dashboard.install import mount

__all__ = ["mount"]
