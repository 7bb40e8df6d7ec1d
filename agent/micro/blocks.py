"""Files of the repository over MQTT: the device asks for ranges, one at a time.

A block is a 16-byte header (CRC-32 of the request's id, offset, total; big-endian) and bytes.
Nothing in it is trusted: sizes and hashes are checked against what was signed.
"""

import asyncio
import binascii
import hashlib
import json

from . import files
from .errors import Refused
from .mqtt import Broken

HEADER = 16
ERROR_TOTAL = (1 << 48) - 1
BLOCK_SECONDS = 20
TRIES = 3
SYNC_EVERY = 4  # blocks between two points from which a download can go on


class Blocks:
    """Asks for blocks and matches replies to requests.

    Args:
        publish: coroutine function ``(topic, payload)``.
        topic: of this device, ``.../d/{device}``.
        boot: makes request ids unique over restarts.
        buffer: bytearray for one block with its header.
    """

    def __init__(self, publish, topic, boot, buffer):
        self._publish = publish
        self._topic = topic
        self._boot = boot
        self._size = len(buffer) - HEADER
        self._count = 0
        self._id = None
        self._event = asyncio.Event()
        self._payload = None
        self._buffer = memoryview(buffer)

    def on_message(self, request, payload):
        """A message on ``blob/{request}``; of no use unless it is the one waited for."""
        if request == self._id and self._payload is None:
            count = min(len(payload), len(self._buffer))
            self._buffer[:count] = payload[:count]
            self._payload = self._buffer[:count] if count == len(payload) else b""
            self._event.set()

    async def _ask(self, path, offset, length):
        """One range, checked: ``(total, data)``."""
        self._count += 1
        self._id = "%s-%d" % (self._boot, self._count)
        self._payload = None
        self._event.clear()
        request = {"id": self._id, "path": path, "offset": offset, "length": length}
        await self._publish(self._topic + "/blob/get", json.dumps(request).encode())
        try:
            await asyncio.wait_for(self._event.wait(), BLOCK_SECONDS)
        except asyncio.TimeoutError:
            raise Broken("no block of %s came" % path)
        finally:
            request, self._id = self._id, None
        payload, self._payload = self._payload, None
        if len(payload) < HEADER:
            raise Refused("bad-block", "a block is shorter than its header, or longer than asked")
        if int.from_bytes(bytes(payload[:4]), "big") != binascii.crc32(request.encode()):
            raise Refused("bad-block", "a block is of another request")
        start = int.from_bytes(bytes(payload[4:10]), "big")
        total = int.from_bytes(bytes(payload[10:16]), "big")
        data = payload[HEADER:]
        if total == ERROR_TOTAL:
            try:
                error = json.loads(bytes(data))["error"]
                code, message = str(error["code"])[:64], str(error["message"])[:200]
            except (ValueError, KeyError, TypeError):
                raise Refused("bad-block", "a block's error is not well-formed")
            raise Refused(code, message)
        if start != offset or len(data) > length or start + len(data) > total:
            raise Refused("bad-block", "a block is of another range of its file")
        if not data and start < total:
            raise Refused("bad-block", "a block of %s is empty" % path)
        return total, data

    async def _range(self, path, offset, length):
        """As :meth:`_ask`, but a damaged block is asked for again."""
        for attempt in range(TRIES):
            try:
                return await self._ask(path, offset, length)
            except Refused as error:
                if error.code != "bad-block" or attempt == TRIES - 1:
                    raise

    async def download(self, path, target, cap, size=None, sha256=None, progress=None):
        """Downloads a file to flash; with a known size and hash it goes on where it ended.

        Args:
            path: in the repository.
            target: on flash.
            cap: bytes that are accepted.
            size, sha256: that it must have, where known.
            progress: coroutine function, called with the number of new bytes.

        Raises:
            Refused: ``too-large``, ``wrong-size``, ``wrong-hash``, ``bad-block``, or the
                sender's error.
            Broken: the connection is gone.
        """
        digest = hashlib.sha256()
        offset = 0
        if sha256 is None:
            files.remove(target)
        else:
            offset = _resume(target, digest, size)
        if progress and offset:
            await progress(offset)
        wrong = None
        with open(target, "ab") as stream:
            count = 0
            while size is None or offset < size:
                length = self._size if size is None else min(self._size, size - offset)
                total, data = await self._range(path, offset, length)
                if size is not None and total != size:
                    wrong = "wrong-size", "%s has %d bytes, %d are signed" % (path, total, size)
                    break
                if total > cap:
                    raise Refused("too-large", "%s has %d of %d bytes" % (path, total, cap))
                size = total
                stream.write(data)
                digest.update(data)
                offset += len(data)
                if progress:
                    await progress(len(data))
                count += 1
                if count % SYNC_EVERY == 0:
                    stream.flush()
        if wrong is None and sha256 is not None:
            if binascii.hexlify(digest.digest()).decode() != sha256:
                wrong = "wrong-hash", "%s does not have the signed sha256" % path
        if wrong:
            files.remove(target)
            raise Refused(*wrong)


def _resume(target, digest, size):
    """Hashes what is there of a file; returns its bytes. A longer file is not ours."""
    there = files.size(target)
    if there < 0 or there > size:
        files.remove(target)
        return 0
    buffer = bytearray(512)
    view = memoryview(buffer)
    with open(target, "rb") as stream:
        while True:
            count = stream.readinto(buffer)
            if not count:
                return there
            digest.update(view[:count])
