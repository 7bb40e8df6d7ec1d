"""The binary reply of ``blob/{id}``: a 16-byte header and the bytes of one range.

Header, big-endian: ``id`` uint32, ``offset`` uint48, ``total`` uint48. ``id`` is CRC-32 of
the request's id, so that a late block of another request is told apart; ``total`` is the
size of the whole file. A total of 2**48-1 means an error: the rest is the JSON error shape.

The message has a user property :data:`TIME_PROPERTY`, by which a device knows how far its clock
is off.
"""

from __future__ import annotations

import zlib
from typing import Final

import msgspec

from contracts import codec
from contracts.errors import ErrorBody, InputError, ShoalError, from_info

HEADER_BYTES: Final = 16
TIME_PROPERTY: Final = "at"
"""MQTT 5 user property: the controller's time, in seconds since the epoch, as decimal digits."""

_ERROR_TOTAL: Final = 2**48 - 1


class Block(msgspec.Struct, frozen=True):
    """One range of a file: `data` at `offset` of `total` bytes."""

    offset: int
    total: int
    data: bytes


def _header(request_id: str, offset: int, total: int) -> bytes:
    crc = zlib.crc32(request_id.encode())
    return crc.to_bytes(4, "big") + offset.to_bytes(6, "big") + total.to_bytes(6, "big")


def pack(request_id: str, block: Block) -> bytes:
    """`block` as the payload of ``blob/{request_id}``."""
    return _header(request_id, block.offset, block.total) + block.data


def pack_error(request_id: str, error: ShoalError) -> bytes:
    """`error` as the payload of ``blob/{request_id}``."""
    return _header(request_id, 0, _ERROR_TOTAL) + codec.encode(error.body())


def unpack(request_id: str, payload: bytes) -> Block:
    """The inverse of :func:`pack`.

    Raises:
        InputError: ``bad-block``; too short, of another request, or beyond its file.
        ShoalError: the error that the controller sent.
    """
    if len(payload) < HEADER_BYTES:
        raise InputError("bad-block", f"a block has {len(payload)} bytes; its header alone has 16")
    if payload[:4] != zlib.crc32(request_id.encode()).to_bytes(4, "big"):
        raise InputError("bad-block", f"a block on the topic of {request_id} is of another request")
    offset = int.from_bytes(payload[4:10], "big")
    total = int.from_bytes(payload[10:16], "big")
    data = payload[HEADER_BYTES:]
    if total == _ERROR_TOTAL:
        raise from_info(codec.decode(data, ErrorBody, what="a block's error").error)
    if offset + len(data) > total:
        raise InputError("bad-block", f"a block ends at {offset + len(data)} of {total} bytes")
    return Block(offset, total, data)
