"""Which desired documents count: ``agent/update/inbox.py`` in short, on counters in flash."""

from .loan import give_back


class Wishes:
    """The newest desired document, and why one was refused.

    Counters: ``fence`` and ``desired`` of the newest that counts, ``revision`` that was reached.

    Attributes:
        newest: the document; None before the first of this boot.
        refused: None or a reason, to be reported.
    """

    def __init__(self, counters):
        self._counters = counters
        self.newest = None
        self.refused = None

    def offer(self, desired):
        """Takes a decoded document if it counts; True when what is refused has changed."""
        try:
            from .offers import offer

            return offer(self, self._counters, desired)
        finally:
            offer = None
            give_back("offers")

    @property
    def fence(self):
        """Of the newest document that counts."""
        return self._counters.get("fence")
