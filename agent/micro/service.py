"""Requests: classify, generate, selftest, status, cancel; answered one after the other.

A request's id, reply topic and deadline come as JSON fields or as MQTT 5 properties; a field
wins. A full queue is answered ``busy`` at once, and what expired while waiting is dropped.
"""

import asyncio
import gc
import json
import time

from . import bundle as bundles
from .errors import Refused
from .files import checked_name
from .mqtt import Broken, Message

QUEUE = 4
MAX_TEXT_BYTES = 2048
MAX_DEADLINE_MS = 600000


class Request:
    """A parsed request with the way to its answer."""

    def __init__(self, op, message, topic, device):
        self.fits = message.payload is not None
        try:
            self.body = json.loads(message.payload) if self.fits else {}
        except ValueError:
            raise Refused("bad-message", "the request is not JSON")
        except MemoryError:
            gc.collect()
            self.fits = False
            self.body = {}
        if not isinstance(self.body, dict):
            raise Refused("bad-message", "the request is not a JSON object")
        self.op = op
        properties = message.properties
        correlation = properties.get(Message.CORRELATION)
        name = self.body.get("id")
        if name is None and correlation:
            try:
                name = correlation.decode()
            except UnicodeError:
                name = None
        reply = self.body.get("reply_to")
        if reply is None and Message.RESPONSE_TOPIC in properties:
            reply = properties[Message.RESPONSE_TOPIC].decode()
        try:
            self.id = checked_name(name)
        except Refused:
            # Of binary correlation data, or of where the answer goes, an id is made.
            made = correlation or (isinstance(reply, str) and reply.encode())
            if not made:
                raise Refused("bad-message", "the request has no id")
            import binascii  # rare: the memory is for models
            import hashlib

            self.id = "c-" + binascii.hexlify(hashlib.sha256(made).digest()).decode()[:32]
        own = "%s/res/%s" % (topic, self.id)
        # Below its own name, and where applications read: all else is for the broker to refuse.
        apps = topic[: topic.rindex("/d/")] + "/a/"
        good = isinstance(reply, str) and reply.startswith((topic + "/res/", apps))
        self.topic = reply if good and "+" not in reply and "#" not in reply else own
        self.correlation = correlation
        self.device = device
        self.cancelled = False
        limit = self.body.get("deadline_ms")
        if limit is None and Message.EXPIRY in properties:
            limit = properties[Message.EXPIRY] * 1000
        good = isinstance(limit, int) and not isinstance(limit, bool) and limit > 0
        self.deadline = min(limit, MAX_DEADLINE_MS) if good else None
        self.since = time.ticks_ms()
        self._seq = 0

    def expired(self):
        """Whether the deadline is over."""
        waited = time.ticks_diff(time.ticks_ms(), self.since)
        return self.deadline is not None and waited > self.deadline

    def text(self, name):
        """A text of the request, capped."""
        value = self.body.get(name)
        if not isinstance(value, str):
            raise Refused("bad-message", "%s is not a text" % name)
        if len(value.encode()) > MAX_TEXT_BYTES:
            raise Refused("too-large", "%s is over %d bytes" % (name, MAX_TEXT_BYTES))
        return value

    def number(self, name, default, least, most):
        """A whole number of the request."""
        value = self.body.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Refused("bad-message", "%s must be %d to %d" % (name, least, most))
        return value

    def payload(self, done=True, **fields):
        """An answer's bytes."""
        answer = {"id": self.id, "device": self.device, "seq": self._seq, "done": done}
        answer.update(fields)
        self._seq += 1
        return json.dumps(answer).encode()


class Service:
    """Serves requests from a bounded queue.

    Args:
        device: gives ``models`` (slot name -> loaded bundle and its reference), ``publish``,
            ``reported()``, ``count(...)``.
    """

    def __init__(self, device):
        self._device = device
        self._queue = []
        self._running = None
        self._event = asyncio.Event()

    def on_request(self, op, message):
        """Takes a message on ``req/{op}``: queues it, or returns ``(request, answer)``."""
        device = self._device
        try:
            request = Request(op, message, device.topic, device.name)
        except Refused:
            return None  # nobody to answer to
        if not request.fits:
            text = "the request does not fit: send at most %d bytes of text, as UTF-8 without escapes"
            error = {"code": "too-large", "message": text % MAX_TEXT_BYTES}
            return request, request.payload(error=error)
        if op == "cancel":
            hit = False
            for other in self._queue + [self._running]:
                if other is not None and other.id == request.body.get("cancel"):
                    other.cancelled = hit = True
            return request, request.payload(cancelled=hit)
        if op == "leave":
            print("the controller says that this device was", str(request.body.get("reason"))[:40])
            return request, request.payload()
        if len(self._queue) >= QUEUE:
            device.busy += 1
            error = {"code": "busy", "message": "%d requests wait: try again later" % QUEUE}
            return request, request.payload(error=error)
        self._queue.append(request)
        self._event.set()
        return None

    async def run(self):
        """Serves for ever."""
        while True:
            await self._event.wait()
            if not self._queue:
                self._event.clear()
                continue
            request = self._running = self._queue.pop(0)
            try:
                await self._serve(request)
            except (Broken, MemoryError):
                gc.collect()  # the asker's deadline tells it
            self._running = None
            await asyncio.sleep(0)

    async def _serve(self, request):
        device = self._device
        slot = None
        try:
            if request.cancelled:
                raise Refused("cancelled", "cancelled before it ran")
            if request.expired():
                return
            if request.op == "status":
                answer = {"reported": device.reported()}
            else:
                names = {"classify": "classify", "generate": "generate", "selftest": "classify"}
                if request.op == "logs":
                    raise Refused("not-supported", "this board keeps no log in its memory")
                if request.op not in names:
                    raise Refused("unknown-operation", "no operation %s" % request.op[:40])
                slot = str(request.body.get("slot", names[request.op]))
                if slot not in device.models:
                    raise Refused("no-model", "slot %s has no model" % slot[:40])
                answer = await getattr(self, "_" + request.op)(request, slot)
            payload = request.payload(**answer)
            failed = False
        except Refused as error:
            payload = request.payload(error=error.info())
            # The asker's mistakes are not the bundle's.
            failed = error.code not in ("bad-message", "too-large", "cancelled")
        except MemoryError:
            gc.collect()
            error = {"code": "out-of-memory", "message": "too little memory for this request"}
            payload = request.payload(error=error)
            failed = True
        if slot in device.models:
            device.served(slot, failed)
        await device.publish(request.topic, payload, correlation=request.correlation)

    async def _classify(self, request, slot):
        model, reference = self._device.models[slot]
        if model.manifest.task != "classify":
            raise Refused("wrong-task", "slot %s does not classify" % slot)
        result = model.classify(request.text("text"), request.number("top_k", 3, 1, 20))
        result["bundle"] = reference
        self._device.classified(slot, result)
        return {"classified": result}

    async def _selftest(self, request, slot):
        model, reference = self._device.models[slot]
        folder = self._device.folder(slot)
        vectors, passed, most = bundles.selftest(folder, model)
        return {
            "selftested": {
                "bundle": reference,
                "vectors": vectors,
                "passed": passed,
                "max_steps": most,
                "runtime": "micropython",
            }
        }

    async def _generate(self, request, slot):
        model, reference = self._device.models[slot]
        if model.manifest.task != "generate":
            raise Refused("wrong-task", "slot %s does not generate" % slot)
        if request.body.get("adapter") is not None:
            raise Refused("no-adapter", "this board runs no adapters")
        stream = bool(request.body.get("stream", True))

        async def chunk(text):
            if stream:
                await self._device.publish(
                    request.topic,
                    request.payload(False, chunk=text),
                    correlation=request.correlation,
                )

        result = await model.generate(
            request.text("prompt"), request.number("max_tokens", 256, 1, 8192), request, chunk
        )
        result["bundle"] = reference
        self._device.generated(slot, result)
        return {"generated": result}
