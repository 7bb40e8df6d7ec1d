"""Judges desired documents; loaded when one comes and given back after it."""

MAX_WHOLE = (1 << 53) - 1
MAX_STEP = 10000  # revisions at once
MAX_FIRST = 1 << 32  # the first revision of a fence, and fences at once


def offer(wishes, counters, desired):
    """As :meth:`micro.desired.Wishes.offer`."""
    before = wishes.refused
    fence = known_fence = counters.get("fence")
    # Before there was a count of documents, the one that was reached was the newest.
    known = max(counters.get("desired"), counters.get("revision"))
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
        wishes.refused = {
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
        return wishes.refused != before
    wishes.refused = None
    if fence > known_fence:
        counters.update({"fence": fence, "desired": revision, "revision": 0})
    else:
        counters.update({"desired": revision})
    wishes.newest = desired
    return before is not None


def _well_formed(desired):
    if not isinstance(desired, dict) or not isinstance(desired.get("slots", {}), dict):
        return False
    for key, least in (("revision", 1), ("fence", 0)):
        value = desired.get(key, 0)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not least <= value <= MAX_WHOLE:
            return False
    return True
