"""Cursors, limits and ETags."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated

from fastapi import Header, Query

from contracts.errors import InputError, RefusedError

Cursor = Annotated[
    str | None, Query(max_length=200, description="`next` of the page before; opaque")
]
Limit = Annotated[int, Query(ge=1, le=1000, description="most items on the page")]
IfMatch = Annotated[
    str | None,
    Header(max_length=100, description="the ETag that was read; the change is refused if it moved"),
]


def encode_cursor(value: str | int | None) -> str | None:
    """The place to go on from, as an opaque text."""
    if value is None:
        return None
    return base64.urlsafe_b64encode(str(value).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> str:
    """The inverse; empty for the first page.

    Raises:
        InputError: ``bad-cursor``.
    """
    if not cursor:
        return ""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode()
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
            raise ValueError
    except (ValueError, binascii.Error, UnicodeError):
        raise InputError(
            "bad-cursor", "the cursor is not one that this API gave: begin without one"
        ) from None
    return text


def decode_number(cursor: str | None) -> int | None:
    """A cursor that is a number; None for the first page."""
    text = decode_cursor(cursor)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InputError("bad-cursor", "the cursor is not one of this list: begin without one")
    return int(text)


def etag(version: int) -> str:
    """The ETag of a version."""
    return f'"{version}"'


def match(if_match: str | None) -> int | None:
    """The version that a change asks for; None: any.

    Raises:
        InputError: ``bad-etag``.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    found = re.fullmatch(r'"?(\d{1,18})"?', if_match.strip(), re.ASCII)
    if found is None:
        raise InputError("bad-etag", "If-Match is not an ETag of this API")
    return int(found[1])


def check_version(wanted: int | None, found: int, what: str) -> None:
    """Refuses a change of what has moved on.

    Raises:
        RefusedError: ``changed-meanwhile``.
    """
    if wanted is not None and wanted != found:
        raise RefusedError(
            "changed-meanwhile", f"{what} has changed since it was read: read it again"
        )
