"""The device: connects, reports, serves, updates. One object ties the parts together.

Over 400 lines: each module of its own costs a board memory.
"""

import asyncio
import gc
import json
import math
import os
import random
import time

from . import files
from . import bundle as bundles
from .blocks import Blocks
from .desired import Wishes
from .errors import Refused, Waits
from .kept import IDLE_SECONDS, Kept, Quiet
from .loan import give_back
from .mqtt import Broken, Client, Message
from .service import Service
from .store import Counters, Slot, reference
from .trials import Trials

ROOT = "shoal/v1"
MAX_WINDOWS = 8  # of bundles, that are counted apart in one batch of telemetry
RETRY_SECONDS = (1, 60)
MAX_STARVED = 3  # connections in a row that end for lack of memory
MAX_NOT_ALLOWED = 8  # topics that the broker refuses, of which is reported
EPOCH_2025 = 1735689600
WAIT_SECONDS = 30  # before what waits is tried again
TOLERANCE_SECONDS = 120  # by which the clocks of the device and the controller may differ


def seconds():
    """Whole seconds since the Unix epoch; boards whose epoch is 2000 are put right."""
    moment = int(time.time())
    return moment + 946684800 if time.gmtime(0)[0] == 2000 else moment


def now():
    """Seconds since the Unix epoch, as the wire has them."""
    return float(seconds())


def clock_set():
    """Whether the clock was ever set."""
    return now() > EPOCH_2025


def today():
    """The time as TUF writes it, or None without a clock."""
    if not clock_set():
        return None
    return "%04d-%02d-%02dT%02d:%02d:%02dZ" % time.gmtime()[:6]


class Window:
    """Counters of one bundle of a slot between two telemetry samples."""

    def __init__(self, slot, bundle):
        self.slot = slot
        self.bundle = bundle
        self.requests = self.errors = self.unknown = self.tokens = 0
        self.latency = {}
        self.latency_total = 0.0
        self.confidence = {}
        self.confidence_total = 0.0
        self.labels = {}


class Device:
    """A fleet's device.

    Args:
        config: ``{"fleet", "device", "board": {facts}, "mqtt": {...}, ...}``; see
            ``docs/micropython.md``.
        base: folder for everything that is kept.
        memory: for models.
        buffers: for one received packet, and for one block.
        tls: an ``ssl.SSLContext`` or None.
        client_id: at the broker; the device's name without one.
    """

    def __init__(self, config, base, memory, buffers, tls=None, client_id=None):
        self.config = config
        self.base = base
        self.name = config["device"]
        self.board = config["board"]
        self.topic = "%s/%s/d/%s" % (ROOT, config["fleet"], self.name)
        self._groups = [
            "%s/%s/g/%s/req/" % (ROOT, config["fleet"], g) for g in config.get("groups", [])
        ]
        self._tls = tls
        self._client_id = client_id or self.name
        self._memory = memory
        self._buffer = buffers[0]
        self.boot = "".join(["%02x" % b for b in os.urandom(6)])
        files.make_folder(base + "/slots")
        self._counters = Counters(base)
        self.today = today
        self._client = None
        self.blocks = Blocks(self._publish_now, self.topic, self.boot, buffers[1])
        self._slots = {}
        for name in os.listdir(base + "/slots"):
            self.slot(name)
        self.models = {}
        self.busy = 0
        self._ticks = time.ticks_ms()
        self._millis = 0
        self._windows = []
        self._window_since = 0
        self._quiet = Quiet(self.boot, self.config.get("idle_s", IDLE_SECONDS))
        self._dropped = 0
        self.kept = Kept(self.boot, self._counters.get("acknowledged") > 0, 0)
        self._last_update = files.read_json(base + "/last.json")
        self._pending = []
        self._not_allowed = {}  # topic -> (what, since when)
        self._wishes = Wishes(self._counters)
        self._applied = None
        self._applying = False
        self._desired_event = asyncio.Event()
        self._wait = None
        self._offset = None
        self.starved = []  # slot, bundle, revision and rollout of updates that memory ended
        self._told_time = None  # by the controller, in milliseconds, when `millis` was 0
        self._service = Service(self)
        self.trials = Trials(self)
        self.side = self.restart = self.own = None  # of a board with a starter
        self.program = None  # the trial of the release that runs

    # Slots and models. --------------------------------------------------------------------

    def slot(self, name):
        """The slot of this name, made when missing."""
        if name not in self._slots:
            self._slots[name] = Slot(self.base, name)
        return self._slots[name]

    def folder(self, slot):
        """The folder of a slot's active bundle."""
        return self._slots[slot].path(self._slots[slot].active)

    def alone(self):
        """Stops serving and returns the models' memory, for one model alone."""
        for model, _ in self.models.values():
            model.close()
        self.models = {}
        gc.collect()
        self._memory.reset()
        return self._memory

    def load(self):
        """Serves the active bundle of every slot; returns those that could not be loaded."""
        memory = self.alone()
        failed = []
        for slot in self._slots.values():
            if slot.active is None:
                continue
            folder = slot.path(slot.active)
            try:
                manifest = bundles.Manifest(folder + "/" + bundles.MANIFEST)
                model = bundles.open_bundle(folder, manifest, memory)
                self.models[slot.name] = model, reference(slot.active)
            except (Refused, OSError, MemoryError) as error:
                failed.append((slot, error))
            gc.collect()
        return failed

    def empty_all_but(self, names):
        """Empties the slots that are not in `names`: what is not desired does not serve."""
        gone = [slot for name, slot in self._slots.items() if name not in names]
        if any([slot.active for slot in gone]):
            self.alone()
        emptied = [slot.name for slot in gone if slot.empty()]
        if emptied:
            print("emptied:", emptied)
            self.load()

    async def start(self):
        """Loads what serves; a bundle that cannot be loaded gives way to the one before."""
        for slot in self._slots.values():
            await self.trials.boot(slot)
        await self._load_all()
        if self.side is not None:
            await self._own("boot")

    async def _own(self, what):
        try:
            from . import release

            await getattr(release, what)(self)
        finally:
            release = None
            give_back("release")

    def own_update(self, *words):
        """The update of the program; :class:`micro.update.Update` is of a slot."""
        from .program import Update

        give_back("program", "release")
        return Update(self, *words)

    async def _load_all(self):
        for slot, error in self.load():
            if slot.trial is not None:
                await self.trials.roll_back(slot, "load", "could not be loaded: %s" % error)
            elif slot.previous is not None:
                slot.roll_back()
                self.load()

    # What is counted. -----------------------------------------------------------------------

    def _window(self, slot):
        bundle = self.models[slot][1] if slot in self.models else None
        for window in self._windows:
            if window.slot == slot and window.bundle == bundle:
                return window
        self._windows.append(Window(slot, bundle))
        return self._windows[-1]

    def served(self, slot, failed):
        """A request of a slot was answered, or failed."""
        window = self._window(slot)
        window.requests += 1
        window.errors += bool(failed)
        self.trials.count(slot, failed)

    def classified(self, slot, result):
        """Counts a classification."""
        window = self._window(slot)
        if result["label"] == "unknown":
            window.unknown += 1
        # Of an answer with several labels each counts.
        for name in [one["label"] for one in result.get("labels", ())] or [result["label"]]:
            window.labels[name] = window.labels.get(name, 0) + 1
        latency = result["latency_us"]
        key = str(min(504, int(8 * math.log(latency) / math.log(2))) if latency >= 1 else 0)
        window.latency[key] = window.latency.get(key, 0) + 1
        window.latency_total += latency
        key = str(min(19, int(result["confidence"] * 20)))
        window.confidence[key] = window.confidence.get(key, 0) + 1
        window.confidence_total += result["confidence"]

    def generated(self, slot, result):
        """Counts a generation."""
        self._window(slot).tokens += result["tokens"]

    def millis(self):
        """Whole milliseconds that only grow; it is asked for more often than ticks turn over."""
        ticks = time.ticks_ms()
        self._millis += time.ticks_diff(ticks, self._ticks)
        self._ticks = ticks
        return self._millis

    def _sample(self):
        """Ends the window of time and keeps its telemetry; without room for it, it goes on."""
        while len(self._windows) > MAX_WINDOWS:
            self._windows.pop(0)
            self._dropped += 1
        if not self.kept.room():
            return
        since = self.millis()
        seconds = (since - self._window_since) / 1000
        try:
            from .samples import batch

            self.kept.put(batch(self, self._windows, self._dropped, seconds, now()))
        finally:
            batch = None
            give_back("samples")
        self._window_since, self._windows = since, []
        self.busy = self._dropped = 0

    # Documents. -----------------------------------------------------------------------------

    def _status(self, state, session):
        return json.dumps(
            {"state": state, "boot": self.boot, "session": session, "since": now()}
        ).encode()

    def reported(self):
        """The reported document."""
        try:
            from .report import reported

            return reported(self, now(), clock_set())
        finally:
            reported = None
            give_back("report")

    def clock_fault(self):
        """Why the clock is wrong, as an error's inside; None: it is not known to be."""
        if not clock_set():
            return {"code": "clock-wrong", "message": "this device's clock is not set"}
        if self._offset is None or abs(self._offset) <= TOLERANCE_SECONDS:
            return None
        side = "ahead of" if self._offset > 0 else "behind"
        return {
            "code": "clock-wrong",
            "message": "this device's clock is %d s %s the controller's: set it"
            % (abs(self._offset), side),
        }

    def heard(self, told):
        """The controller's time, which came with a block: an answer to what was asked just now."""
        try:
            whole = told.split(b".")[0]
            if 0 < len(whole) <= 11:
                self._offset = seconds() - int(whole)
                self._told_time = int(whole) * 1000 - self.millis()
        except ValueError:
            pass

    def controller_time(self):
        """Seconds since the epoch by the controller, whatever this clock; None: never heard."""
        if self._told_time is not None:
            return (self._told_time + self.millis()) // 1000

    def wait(self, reason, slot):
        """An update waits, or (no reason) gets on; True when that is news."""
        before = self._wait and (self._wait["reason"]["code"], self._wait["slot"])
        news = before != (reason and (reason["code"], slot))
        if reason is None:
            self._wait = None
        elif news:
            self._wait = {"reason": reason, "since": now(), "slot": slot}
        return news

    async def event(self, slot, bundle, revision, rollout, state, **extra):
        """Reports one state of an update; a final one is also kept in the reported document."""
        self._quiet.stir(self.millis())
        event = {
            "boot": self.boot,
            "seq": self._counters.next("event"),
            "revision": revision,
            "slot": slot,
            "bundle": reference(bundle),
            "state": state,
            "at": now(),
        }
        if rollout:
            event["rollout"] = rollout
        for key, value in extra.items():
            if value is not None:
                event[key] = value
        self._last_update = event
        if state in ("trial", "committed", "rolled-back", "refused"):
            try:
                files.write_json(self.base + "/last.json", event)
            except OSError as error:
                print("event not kept:", error)
        if state in ("committed", "rolled-back", "refused") and not self._applying:
            self._reached(revision)  # what failed is not tried again after a restart
        for _ in range(2):
            try:
                await self.publish(self.topic + "/update", json.dumps(event).encode())
                break
            except Broken:
                break  # the reported document carries the last one
            except MemoryError:
                gc.collect()  # what ended is noted above, so nobody would say it again
        if state in ("trial", "committed", "rolled-back", "refused") or "reason" in extra:
            await self._report()

    def _reached(self, revision):
        """Every slot of a document has ended; what an older one asked for does not count."""
        if revision == (self._counters.get("desired") or revision):
            self._counters.set("revision", revision)

    async def _settle(self):
        """The document that was applied has ended when nothing is on trial any more."""
        newest = self._wishes.newest
        if newest is None or self._applied != (self._wishes.fence, newest["revision"]):
            return
        ended = all([slot.trial is None for slot in self._slots.values()])
        ended = ended and self.program is None
        if ended and newest["revision"] != self._counters.get("revision"):
            self._reached(newest["revision"])
            await self._report()

    async def _report(self):
        try:
            await self.publish(
                self.topic + "/reported", json.dumps(self.reported()).encode(), retain=True
            )
        except Broken:
            pass

    # The connection. ------------------------------------------------------------------------

    async def _publish_now(self, topic, payload):
        await self.publish(topic, payload)

    async def publish(self, topic, payload, retain=False, correlation=None):
        """Publishes at QoS 1; returns the reason code, raises ``Broken`` without a connection."""
        if self._client is None:
            raise Broken("not connected")
        code = await self._client.publish(topic, payload, retain, correlation=correlation)
        if topic.startswith(self.topic + "/res/"):
            topic = self.topic + "/res/+"
        elif topic.split("/")[3] == "a":  # of an application
            topic = "/".join(topic.split("/")[:5]) + "/#"
        self._answered("publish to", topic, code)
        return code

    async def _subscribe(self, client, topic):
        self._answered("subscribe to", topic, await client.subscribe(topic))

    def _answered(self, verb, topic, code):
        """What the broker does not allow is reported; all else goes on."""
        if code < 0x80:
            self._not_allowed.pop(topic, None)
        elif topic not in self._not_allowed and len(self._not_allowed) < MAX_NOT_ALLOWED:
            print("not allowed to", verb, topic, "code", code)
            self._not_allowed[topic] = (verb, now())

    def _on_message(self, message):
        if message.topic.startswith(self.topic + "/"):
            parts = message.topic[len(self.topic) + 1 :].split("/")
        else:
            parts = None
            for prefix in self._groups:
                if message.topic.startswith(prefix):
                    parts = ["req", message.topic[len(prefix) :]]
        if parts is None:
            return
        if message.payload is None and parts[0] != "req":
            print("message dropped: it does not fit")
        elif parts[0] == "blob" and len(parts) == 2:
            if Message.AT in message.properties:
                self.heard(message.properties[Message.AT])
            self.blocks.on_message(parts[1], message.payload)
        elif parts[0] == "req" and len(parts) == 2 and not message.retained:
            answer = self._service.on_request(parts[1], message)
            if answer is not None:
                asyncio.create_task(self._answer(*answer))
        elif parts == ["ack"] and message.payload:
            self._on_ack(message.payload)
        elif parts == ["desired"] and message.payload:
            self._on_desired(message.payload)

    async def _answer(self, request, payload):
        try:
            await self.publish(request.topic, payload, correlation=request.correlation)
        except Broken:
            pass

    def _on_desired(self, payload):
        try:
            desired = json.loads(payload)
        except ValueError:
            desired = None
        try:
            news = self._wishes.offer(desired)
        except OSError as error:  # flash refuses: it comes again with the next connection
            print("desired document not taken:", error)
            return
        if news:
            asyncio.create_task(self._report())
        self._desired_event.set()

    async def connect(self):
        """One connection: connects, subscribes, reports; returns when it is gone."""
        mqtt = self.config["mqtt"]
        session = self._counters.next("session")
        client = Client(
            self._client_id,
            self._on_message,
            self._buffer,
            mqtt.get("keepalive_s", 30),
            mqtt.get("session_expiry_s", 3600),
        )
        credentials = None
        if mqtt.get("username"):
            credentials = mqtt["username"], mqtt.get("password") or ""
        status = self.topic + "/status"
        await client.connect(
            mqtt["host"],
            mqtt["port"],
            (status, self._status("offline", session)),
            self._tls,
            mqtt.get("server_name"),
            credentials,
        )
        self._client = client
        try:
            for rest in ("blob/+", "req/+", "ack"):
                await self._subscribe(client, self.topic + "/" + rest)
            for prefix in self._groups:
                await self._subscribe(client, prefix + "+")
            await client.publish(status, self._status("online", session), True)
            self.kept.connected(self.millis())
            await self._report()
            # Last, so that memory is not needed for an update and for all of this at once.
            await self._subscribe(client, self.topic + "/desired")
            if self._not_allowed:
                await self._report()
            self._desired_event.set()  # a download that broke off goes on
            await client.closed.wait()
        finally:
            self._client = None
            await client.disconnect()
        raise Broken(client.reason)

    # Tasks. ---------------------------------------------------------------------------------

    async def _stay_connected(self):
        wait = RETRY_SECONDS[0]
        starved = 0
        while True:
            started = time.ticks_ms()
            try:
                await self.connect()
            except (Broken, Refused, OSError) as error:
                print("connection:", error)
                starved = 0
            except MemoryError as error:
                print("connection:", error)
                starved += 1
                if starved == MAX_STARVED:
                    raise  # the heap is in pieces: a restart puts it together again
                gc.collect()
            if time.ticks_diff(time.ticks_ms(), started) > 60000:
                wait = RETRY_SECONDS[0]
            await asyncio.sleep(wait * (0.5 + random.random()))
            wait = min(wait * 2, RETRY_SECONDS[1])

    async def _stay_current(self):
        while True:
            await self._desired_event.wait()
            self._desired_event.clear()
            desired = self._wishes.newest
            if desired is None or self._client is None:
                continue
            which = self._wishes.fence, desired["revision"]
            if which == self._applied or desired["revision"] == self._counters.get("revision"):
                continue  # it came to its end before
            try:
                await self.apply(desired)
                self._applied = which
                await self._settle()
            except Waits as error:
                print("update waits:", error)
                await self._until(which, error.ready)
            except (Broken, MemoryError) as error:
                print("update:", error)  # goes on with the next connection
                gc.collect()
                if self._client is not None:
                    await asyncio.sleep(5)
                    self._desired_event.set()

    async def _until(self, which, ready):
        """Until another try makes sense: a while, a new document, or what one of `ready` says."""
        while True:
            try:
                await asyncio.wait_for(self._desired_event.wait(), WAIT_SECONDS)
            except asyncio.TimeoutError:
                pass
            self._desired_event.clear()
            newest = self._wishes.newest
            again = any([one is None or one() for one in ready])
            if again or (self._wishes.fence, newest["revision"]) != which:
                self._desired_event.set()
                return

    async def apply(self, desired):
        """Brings the slots to what is desired.

        Raises ``Broken`` without a connection, and ``Waits`` for what may be there later.
        """
        updater = None
        self._applying = True  # other slots of the document may not have come to their end
        try:
            from .update import Updater

            updater = Updater(self)
            await updater.apply(desired)
        finally:
            self._applying = False
            updater = Updater = None
            give_back("update")
            gc.collect()
            # What found no memory beside the update: else it would serve after a restart only.
            if [1 for slot in self._slots.values() if slot.active and slot.name not in self.models]:
                await self._load_all()
            # Only now is there memory to tell it.
            while self.starved:
                reason = {"code": "out-of-memory", "message": "the board has too little memory"}
                which = self.starved.pop()
                if which[0] not in self.models:
                    self.load()  # it could not be, beside the update
                self.wait(None, None)
                await self.event(*which, "refused", reason=reason)

    async def _watch_trials(self):
        while True:
            await asyncio.sleep_ms(200)
            if self.program is not None:
                await self._own("watch")
            for slot in list(self._slots.values()):
                if slot.trial is not None and await self.trials.check(slot):
                    await self._settle()

    async def _send_telemetry(self):
        every = self.config.get("telemetry_s", 30)
        since = self.millis()
        while True:
            await asyncio.sleep(min(every, 1))
            try:
                if self.millis() - since >= every * 1000:
                    since = self.millis()
                    counted = self._windows or self.busy or self._dropped
                    if counted or self._quiet.has_news(since, self._window_since):
                        self._sample()
                await self._send_kept()
            except MemoryError:
                gc.collect()  # an update is at work: what was counted stays for the next time

    async def _send_kept(self):
        while self._client is not None:
            found = self.kept.next(self.millis())
            if found is None:
                return
            try:
                code = await self.publish(self.topic + "/telemetry", found[1])
            except Broken:
                return
            self.kept.landed(found[0], code, self.millis())

    def _on_ack(self, payload):
        try:
            if self.kept.heard(json.loads(payload), self.millis()):
                self._counters.set("acknowledged", 1)
        except (ValueError, OSError) as error:  # flash that refuses costs no connection
            print("acknowledgement not taken:", type(error).__name__)

    async def run(self):
        """Runs for ever."""
        await self.start()
        gc.collect()
        await asyncio.gather(
            self._stay_connected(),
            self._stay_current(),
            self._watch_trials(),
            self._send_telemetry(),
            self._service.run(),
        )
