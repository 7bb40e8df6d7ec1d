"""Queries: ask one device, a list, or a selector, and collect or stream the answers.

Not here: what an answer means, and how answers are shown.
"""

from fleet.query.ask import Asker

__all__ = ["Asker"]
