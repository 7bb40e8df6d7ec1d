"""The exceptions of this package: a stable code and one sentence for people."""


class Refused(Exception):
    """Something that must not be used, or cannot be done. `code` is stable (``bad-model``)."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message

    def info(self):
        """The inside of the wire's error shape."""
        return {"code": self.code, "message": self.message[:300]}


class Waits(Refused):
    """Something that cannot be done now and may be done later: ``disk-full``, ``clock-wrong``.

    `ready` says whether another try makes sense; None: after a while. Raised for a document it is
    a list of those of its slots.
    """

    def __init__(self, code, message, ready=None):
        super().__init__(code, message)
        self.ready = ready
