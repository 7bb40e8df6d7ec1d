"""Which desired documents count: ``agent/update/inbox.py`` in short, on counters in flash."""

MAX_WHOLE = (1 << 53) - 1
MAX_STEP = 10000  # revisions at once
MAX_FIRST = 1 << 32  # the first revision of a fence, and fences at once


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
        before = self.refused
        fence = known_fence = self._counters.get("fence")
        # Before there was a count of documents, the one that was reached was the newest.
        known = max(self._counters.get("desired"), self._counters.get("revision"))
        revision = 0
        code = why = None
        if not _well_formed(desired):
            code, why = "bad-desired", "it is not well-formed"
        else:
            fence, revision = desired.get("fence", 0), desired["revision"]
            anew = fence > known_fence or known == 0
            step = MAX_FIRST if anew or fence == 0 else MAX_STEP
            if fence < known_fence:
                code, why = "old-fence", "its fence is lower than one that was seen"
            elif fence > known_fence + MAX_FIRST:
                code, why = "fence-jump", "its fence is too far above the last"
            elif revision > step + (0 if anew else known):
                code, why = "revision-jump", "its revision is too far above the last"
            elif revision < known and not anew:
                code, why = "old-revision", "its revision is lower than the last"
        if code is not None:
            self.refused = {
                "code": code,
                "message": "a desired document was refused: %s (fence %d, revision %d; the last "
                "that counts: fence %d, revision %d)" % (why, fence, revision, known_fence, known),
                "detail": {
                    "fence": fence,
                    "revision": revision,
                    "known_fence": known_fence,
                    "known_revision": known,
                },
            }
            return self.refused != before
        self.refused = None
        if fence > known_fence:
            self._counters.update({"fence": fence, "desired": revision, "revision": 0})
        else:
            self._counters.update({"desired": revision})
        self.newest = desired
        return before is not None

    @property
    def fence(self):
        """Of the newest document that counts."""
        return self._counters.get("fence")


def _well_formed(desired):
    if not isinstance(desired, dict) or not isinstance(desired.get("slots", {}), dict):
        return False
    for key, least in (("revision", 1), ("fence", 0)):
        value = desired.get(key, 0)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not least <= value <= MAX_WHOLE:
            return False
    return True
