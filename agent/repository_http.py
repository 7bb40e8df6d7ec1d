"""Whole repository files over HTTP(S): the :data:`agent.trust.Fetch` of a device with a URL.

Nothing of an answer is believed but its bytes: a length header only makes the refusal of
endless data early, redirects are not followed, and a server that drips bytes is cut off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from contracts.errors import InputError, RefusedError, UnavailableError

if TYPE_CHECKING:
    import ssl

    from agent.trust import Fetch

CONNECT_S: Final = 10.0
"""Seconds to connect, and between two pieces of an answer."""

MIN_BYTES_PER_S: Final = 500
"""A slower answer, after :data:`GRACE_S`, is a slow-retrieval attack or as bad as one."""

GRACE_S: Final = 20.0
"""Seconds in which an answer may be slower than :data:`MIN_BYTES_PER_S`."""

_CHUNK: Final = 16 * 1024


def http_fetch(
    base_url: str,
    *,
    context: ssl.SSLContext | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Fetch:
    """A function that reads a repository file whole.

    Args:
        base_url: of the repository, ``http`` or ``https``.
        context: for ``https``; None: the system's authorities.
        monotonic: seconds that never jump.

    Raises:
        InputError: ``bad-url``.
    """
    if not _is_base_url(base_url):
        raise InputError("bad-url", f"{base_url[:200]!r} is not an http or https base URL")
    base = base_url.rstrip("/") + "/"

    import urllib3
    from urllib3.exceptions import HTTPError

    pool = urllib3.PoolManager(
        num_pools=1,
        maxsize=1,
        retries=False,
        timeout=urllib3.Timeout(connect=CONNECT_S, read=CONNECT_S),
        ssl_context=context,
    )

    def fetch(path: str, cap: int) -> bytes:
        started = monotonic()
        try:
            # No content coding: a small answer must not unpack into a large one.
            response = pool.request(
                "GET",
                base + quote(path),
                preload_content=False,
                redirect=False,
                decode_content=False,
                headers={"Accept-Encoding": "identity"},
            )
        except HTTPError as error:
            raise UnavailableError(
                "repository-unreachable", f"{base}: {str(error)[:300]}"
            ) from None
        try:
            if response.status in (403, 404, 410):
                raise InputError("no-such-path", f"the repository has no {path}")
            if response.status != 200:
                raise UnavailableError(
                    "repository-unreachable", f"{base}{path} answered {response.status}"
                )
            data = bytearray()
            # read1 gives what has arrived: a read of a fixed size would wait for all of it,
            # and the check of the speed with it.
            while chunk := response.read1(_CHUNK):
                data += chunk
                if len(data) > cap:
                    raise RefusedError("endless-data", f"{path} is over its {cap} bytes")
                taken = monotonic() - started
                if taken > GRACE_S and len(data) < taken * MIN_BYTES_PER_S:
                    raise UnavailableError(
                        "slow-retrieval", f"{path}: {len(data)} bytes in {taken:.0f} s"
                    )
            return bytes(data)
        except HTTPError as error:
            raise UnavailableError(
                "repository-unreachable", f"{base}{path}: {str(error)[:300]}"
            ) from None
        finally:
            # Not returned to the pool half read.
            response.close()
            response.release_conn()

    return fetch


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and not parts.query and not parts.fragment
