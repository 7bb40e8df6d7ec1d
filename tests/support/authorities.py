"""Two authorities, as a public one and a fleet's own are two, and servers of either."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fleet.identity.authority import Authority, certificate_pem, key_pem, new_key


class Pair:
    """An authority and certificates of it, as files.

    Args:
        folder: for the files.
        name: of the authority.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._now = datetime.now(timezone.utc)
        self._authority = Authority.create(name, self._now)
        self.ca = folder / f"{name}.ca.pem"
        self.ca.write_bytes(certificate_pem(self._authority.certificate))

    @property
    def ca_text(self) -> str:
        """Its certificate, PEM."""
        return self.ca.read_text()

    def server(self, host: str = "127.0.0.1", later: timedelta = timedelta()) -> Path:
        """A file with a key and a certificate for a server, made `later` than now."""
        key = new_key()
        certificate = self._authority.issue_server([host], key.public_key(), self._now + later)
        path = self._folder / f"{self._name}.{host}.pem"
        path.write_bytes(certificate_pem(certificate) + key_pem(key))
        return path

    def client(self, device: str) -> tuple[str, str]:
        """A certificate and a key for a client, PEM."""
        key = new_key()
        certificate = self._authority.issue_client(device, key.public_key(), self._now, 9)
        return certificate_pem(certificate).decode(), key_pem(key).decode()


class Server:
    """Answers every request with an error of a controller, and counts them."""

    def __init__(self) -> None:
        self.requests = 0
        self.port = 0
        self.asked = threading.Event()


@contextlib.contextmanager
def https_server(pair: Path) -> Iterator[Server]:
    """A server with the key and the certificate of a file."""
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            told.requests += 1
            told.asked.set()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b'{"error": {"code": "reached", "message": "reached", "detail": {}}}'
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        do_GET = do_POST = answer  # noqa: N815  (names of http.server's)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that trusts us not is no news."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    with Quiet(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        told.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()
