"""Queries: ask one device, a list, or a selector, and collect or stream the answers."""

from fleet.query.ask import Asker

__all__ = ["Asker"]
