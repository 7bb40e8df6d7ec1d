"""A mail server of others' making (aiosmtpd), in a process of its own: TLS, sign-in, refusals.

Started as a program it prints its port, and then each message that it took, as a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

USER, PASSWORD = "shoal", "correct horse"


class MailServer:
    """A running server.

    Attributes:
        port: where it listens, on 127.0.0.1.
        messages: what it took, in order: ``to``, ``from``, ``user``, ``tls``, ``content``.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        self.port = int(self._lines.readline())
        self.messages: Queue[dict[str, Any]] = Queue()

    def read(self) -> None:
        """Reads until the server has ended."""
        for line in self._lines:
            self.messages.put(json.loads(line))


@contextlib.contextmanager
def mail_server(pem: Path | None, *, tls: str = "starttls") -> Iterator[MailServer]:
    """A server that wants TLS (`starttls` or `tls`) and a sign-in.

    It refuses ``nobody@...`` for good, and ``later@...`` for now.

    Args:
        pem: a file with certificate and key; None: neither TLS nor sign-in.
        tls: from the first byte, or by STARTTLS.
    """
    command = [sys.executable, "-W", "ignore", __file__, str(pem or ""), tls]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    reader: threading.Thread | None = None
    try:
        server = MailServer(process)
        reader = threading.Thread(target=server.read)
        reader.start()
        yield server
    finally:
        process.kill()
        process.wait()
        if reader is not None:
            reader.join()
        assert process.stdout is not None
        process.stdout.close()


async def _serve(pem: str, tls: str) -> None:
    from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

    class Handler:
        async def handle_RCPT(
            self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
        ) -> str:
            if address.startswith("nobody@"):
                return "550 no such user"
            if address.startswith("later@"):
                return "451 try again later"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
            told = {
                "to": envelope.rcpt_tos,
                "from": envelope.mail_from,
                "user": session.auth_data.login.decode() if session.auth_data else None,
                "tls": session.ssl is not None or tls == "tls",
                "content": envelope.content.decode(),
            }
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
            return "250 taken"

    def check(_server: Any, _session: Any, _envelope: Any, mechanism: str, data: Any) -> Any:
        good = isinstance(data, LoginPassword) and data.password == PASSWORD.encode()
        return AuthResult(success=good, auth_data=data, handled=good)

    context = None
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)

    def make() -> SMTP:
        if context is None:
            return SMTP(Handler(), hostname="mail")
        secret = tls == "tls"
        return SMTP(
            Handler(),
            hostname="mail",
            authenticator=check,
            auth_required=True,
            auth_require_tls=not secret,
            tls_context=None if secret else context,
            require_starttls=not secret,
        )

    implicit = context if tls == "tls" else None
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, ssl=implicit)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))
