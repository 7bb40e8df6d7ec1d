"""Telemetry that waits for the controller's word: ``agent/telemetry/delivery.py`` in short.

The broker's acknowledgement is not enough: its queue may be full, and it may lose what it holds.
A batch is kept in memory until an ``ack`` covers it, and sent again after a new connection or a
long silence. There is room for a few; while there is none, the device goes on counting in the
window that it has, so that a batch tells of more time and nothing is dropped.

No socket and no clock: times are whole milliseconds that only grow.
"""

MAX_KEPT = 8  # batches
MAX_BYTES = 2048  # of all but the last
MAX_TAKEN = 1  # of those that the broker took, where nobody acknowledges
GREETING = 5000  # after a new connection, in which the controller says by itself what it has
PAUSES = (60000, 900000)  # without an acknowledgement until the oldest goes again; doubled
OVERTAKEN = 10000  # what was sent so much earlier than what is covered, and is not, is lost
REFUSALS = (30000, 900000)  # until what the broker did not take is tried again; doubled
PATIENCE = 86400000  # without any acknowledgement: a controller of before, that never will
NOBODY_LISTENS = 0x10
IDLE_SECONDS = 900  # between batches while nothing happens
WATCHED = 300000  # after a start or a step of an update, in which everything is told


class Batch:
    """A batch: its number, its JSON, when it was sent and on which connection; None: not yet."""

    def __init__(self, seq, payload):
        self.seq = seq
        self.payload = payload
        self.at = None
        self.connection = 0


class Kept:
    """Batches of one boot, oldest first.

    Args:
        boot: the boot id.
        known: whether a controller has ever acknowledged.
        now: the time.
    """

    def __init__(self, boot, known, now):
        self.boot = boot
        self.known = known
        self.seq = 0  # of the next batch
        self._batches = []
        self._settled = -1  # up to which number everything is committed
        self._connection = 0
        self._until = self._probe = self._heard = now
        self._asked = now - GREETING
        self._refusal = REFUSALS[0]
        self._pause = PAUSES[0]

    def room(self):
        """Whether one more is kept. Where nobody acknowledges, what the broker took gives way."""
        if not self.known:
            while len(self._batches) > MAX_TAKEN and self._batches[0].at is not None:
                self._batches.pop(0)
        return not self._full()

    def _full(self):
        size = sum([len(batch.payload) for batch in self._batches])
        return len(self._batches) >= MAX_KEPT or size >= MAX_BYTES

    def put(self, payload):
        """Keeps a batch whose JSON names the number ``seq``."""
        self._batches.append(Batch(self.seq, payload))
        self.seq += 1

    def connected(self, now):
        """There is a new connection: what was on its way may be lost."""
        self._connection += 1
        self._until = self._heard = now
        self._pause = PAUSES[0]
        self._probe = now + GREETING

    def next(self, now):
        """``(batch, payload)`` to send now, or None."""
        if now < self._until:
            return None
        if now - self._heard > PATIENCE:
            self.known = False
        before = -1
        for batch in self._batches:
            again = batch.at is not None
            if not again or (self.known and now >= self._probe):
                if again:
                    self._pause = min(PAUSES[1], self._pause * 2)
                    self._probe = now + self._pause
                follows = batch.seq and batch.seq - 1 in (before, self._settled)
                if follows and not again:
                    return batch, batch.payload
                return batch, b'{"after":%d,' % before + batch.payload[1:]
            before = batch.seq
        return None

    def landed(self, batch, code, now):
        """The broker answered with a reason code."""
        if code == NOBODY_LISTENS or code >= 0x80:
            self._until = now + self._refusal
            self._refusal = min(REFUSALS[1], self._refusal * 2)
            batch.at = None
            return
        self._refusal = REFUSALS[0]
        if all([other.at is None for other in self._batches]):
            self._probe = now + self._pause
        batch.at = now
        batch.connection = self._connection

    def heard(self, ack, now):
        """The controller's decoded word; True when it is the first ever."""
        if not isinstance(ack, dict) or ack.get("kind", "telemetry") != "telemetry":
            return False
        seq, spans = ack.get("seq"), ack.get("ahead") or []
        if ack.get("boot") != self.boot or not _whole(seq) or not isinstance(spans, list):
            return False
        if not all([isinstance(s, list) and len(s) == 2 and all(map(_whole, s)) for s in spans]):
            return False
        if max([seq] + [span[1] for span in spans]) >= self.seq:
            return False  # of what was never sent
        first, self.known, self._heard = not self.known, True, now
        self._settled = seq
        covered = [b for b in self._batches if _covers(seq, spans, b.seq)]
        self._batches = [b for b in self._batches if b not in covered]
        sent = [b for b in covered if b.at is not None]
        if sent:
            newest = max([b.at for b in sent])
            connection = max([b.connection for b in sent])
            for b in self._batches:
                if b.at is not None and (b.at < newest - OVERTAKEN or b.connection < connection):
                    b.at = None
        if covered:
            self._pause = PAUSES[0]
            self._probe = now + self._pause
        if seq < 0 and now - self._asked >= GREETING:
            # It does not know this boot: it is told where it begins.
            self._asked = now
            for b in self._batches:
                b.at = None
        wait = ack.get("wait_s", 0)
        if isinstance(wait, (int, float)) and wait > 0:
            self._until = now + int(min(wait, 86400) * 1000)
            for b in self._batches:
                b.at = None
        return first


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _covers(seq, spans, number):
    return number <= seq or any([span[0] <= number <= span[1] for span in spans])


class Quiet:
    """Whether a window of telemetry ends: ``agent/telemetry/quiet.py`` in short, without gauges.

    Args:
        boot: the boot id. It is random, and so is what it takes off the interval, at most a
            quarter: all boards may have been started at once.
        seconds: between batches while nothing happens; 0: none is left out.
    """

    def __init__(self, boot, seconds):
        self._idle = seconds * 1000 * (768 + int(boot[:2], 16)) // 1023
        self._until = WATCHED

    def stir(self, now):
        """Something has begun that is to be watched."""
        self._until = now + WATCHED

    def has_news(self, now, since):
        """Whether a window that began at `since`, in which nothing was counted, is to end."""
        return now < self._until or now - since >= self._idle
