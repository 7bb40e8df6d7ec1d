"""Sends one message by SMTP: TLS, sign-in, and an end to a server that takes too long.

The password is read when it is needed, from a file or the environment, and is in no error, no log
and no answer.
"""

from __future__ import annotations

import os
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from email.utils import formatdate
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from contracts import authorities, files
from contracts.config import endpoint
from contracts.connection import is_loopback
from contracts.errors import InputError, ShoalError

TIMEOUT_S: Final = 20.0
"""Seconds for one answer of the server."""

DEADLINE_S: Final = 60.0
"""Seconds for a whole session: a server that drips does not hold us."""


_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_MAX_ADDRESS: Final = 254


class MailConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`mail` in ``fleet.yaml``: the server that takes our mail.

    Attributes:
        host, port: of the server.
        security: ``starttls`` (usually port 587), ``tls`` from the first byte (465), or ``none``,
            on loopback alone.
        sender: in whose name.
        to: who gets alerts of rules that name nobody.
        user: to sign in as; empty: without.
        password_file: relative to the folder.
        password_env: the name of a variable; one of the two, with a user.
        ca: a PEM file of authorities that count beside the system's and the fleet's own.
    """

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
    sender: Annotated[str, msgspec.Meta(max_length=254)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    to: Annotated[list[str], msgspec.Meta(max_length=20)] = []
    user: Annotated[str, msgspec.Meta(max_length=254)] = ""
    password_file: str = ""
    password_env: str = ""
    ca: str = ""


def check(config: MailConfig) -> None:
    """What must hold between the fields.

    Raises:
        InputError: ``tls-needed``, ``bad-config``, ``bad-address``.
    """
    if config.security == "none" and not is_loopback(config.host):
        raise InputError(
            "tls-needed",
            f"mail.security is none, and {config.host} is another machine: use starttls or tls",
        )
    if bool(config.user) != (bool(config.password_file) != bool(config.password_env)):
        raise InputError(
            "bad-config",
            "mail.user goes with one of mail.password_file and mail.password_env, and not without",
        )
    for address in (config.sender, *config.to):
        check_address(address)


def check_address(address: str) -> str:
    """An address that mail may be sent to.

    Raises:
        InputError: ``bad-address``.
    """
    if len(address) > _MAX_ADDRESS or not _ADDRESS.fullmatch(address):
        raise InputError(
            "bad-address", f"{address[:80]!r} is no e-mail address: expected name@example.org"
        )
    return address


class MailError(ShoalError):
    """A message was not taken; its code is ``mail-failed``.

    Attributes:
        final: the server will not take it another time either.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__("mail-failed", message)
        self.final = final


class Post:
    """Sends messages of one fleet.

    Args:
        config: of the server.
        folder: the fleet's, which paths are relative to.
        ca: PEM text of the fleet's own authority; empty: none.
    """

    def __init__(self, config: MailConfig, folder: Path, ca: str = "") -> None:
        self._config = config
        self._folder = folder
        self._ca = ca
        self._lock = threading.Lock()
        self._open: smtplib.SMTP | None = None
        self._stopped = False

    def send(self, recipient: str, subject: str, body: str, identifier: str) -> None:
        """Hands one message to the server.

        Args:
            recipient: an address.
            subject: one line.
            body: plain text.
            identifier: the same for every try of a message: makes its ``Message-ID``.

        Raises:
            MailError: what went wrong, without the password.
        """
        message = EmailMessage(policy=POLICY)
        message["From"], message["To"] = self._config.sender, recipient
        message["Subject"] = " ".join(subject.split())
        message["Date"] = formatdate()
        message["Message-ID"] = f"<{identifier}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(body)
        password = self._password()
        try:
            with self._session() as server:
                if self._config.user:
                    server.login(self._config.user, password)
                server.send_message(message)
        except smtplib.SMTPResponseException as error:
            said = error.smtp_error
            text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
            # What is wrong with us, as a password, can be put right; the message can not.
            refused = isinstance(error, smtplib.SMTPDataError | smtplib.SMTPSenderRefused)
            raise _failed(
                f"{self._config.host} answered {error.smtp_code} {text}",
                password,
                final=refused and 500 <= error.smtp_code < 600,
            ) from None
        except smtplib.SMTPRecipientsRefused as error:
            code, said = next(iter(error.recipients.values()), (0, b""))
            text = said.decode("utf-8", "replace")
            raise _failed(
                f"{self._config.host} refused the recipient: {code} {text}",
                password,
                final=500 <= code < 600,
            ) from None
        except (OSError, ValueError) as error:  # also what TLS and the protocol raise
            reason = f"{type(error).__name__}: {error}"
            raise _failed(
                f"{endpoint(self._config.host, self._config.port)}: {reason}", password
            ) from None

    def stop(self) -> None:
        """Ends a session that is open, and sends no more."""
        with self._lock:
            self._stopped = True
        self._cut()

    @contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        config, context = self._config, self._context()
        timer = threading.Timer(DEADLINE_S, self._cut)
        timer.daemon = True
        timer.start()
        tls = config.security == "tls"
        server = (
            _Tls(config.host, self._opened, context) if tls else _Plain(config.host, self._opened)
        )
        try:
            code, said = server.connect(config.host, config.port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, said)
            if config.security == "starttls":
                server.starttls(context=context)
            yield server
            with suppress(OSError):
                server.quit()
        finally:
            timer.cancel()
            with self._lock:
                self._open = None
            server.close()

    def _opened(self, server: smtplib.SMTP, sock: socket.socket) -> None:
        """A connection is there, before anything was read of it."""
        server.sock = sock
        with self._lock:
            self._open = server
            stopped = self._stopped
        if stopped:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            sock = self._open.sock if self._open is not None else None
        if sock is not None:
            with suppress(OSError):
                # Whoever waits for it wakes up with an end of the stream.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _context(self) -> ssl.SSLContext:
        named = ""
        if self._config.ca:
            path = self._folder / self._config.ca
            text = files.read_small(path, what="certificate file", code="bad-certificate")
            named = text.decode("ascii", "replace")
        return authorities.context(self._ca, named)

    def _password(self) -> str:
        config = self._config
        if config.password_env:
            found = os.environ.get(config.password_env, "")
            where = f"the variable {config.password_env}"
        elif config.password_file:
            path = self._folder / config.password_file
            where = str(path)
            try:
                found = path.read_text("utf-8").strip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise MailError(f"the password for mail cannot be read: {where}: {error}") from None
        else:
            return ""
        if not found:
            raise MailError(f"the password for mail is empty: {where}")
        return found


_Opened = Callable[[smtplib.SMTP, socket.socket], None]


class _Plain(smtplib.SMTP):
    """Tells of its connection, so that somebody else can end it."""

    def __init__(self, host: str, opened: _Opened) -> None:
        self._on_open = opened
        # Not by `getfqdn`, which waits for a name server.
        super().__init__(timeout=TIMEOUT_S, local_hostname=socket.gethostname())
        self._host = host  # what the certificate must be for

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = socket.create_connection((host, port), timeout)
        self._on_open(self, sock)
        return sock


class _Tls(_Plain):
    def __init__(self, host: str, opened: _Opened, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(host, opened)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = super()._get_socket(host, port, timeout)
        sock = self._context.wrap_socket(plain, server_hostname=host)
        self._on_open(self, sock)
        return sock


def _failed(text: str, password: str, *, final: bool = False) -> MailError:
    """An error in one line; a server that repeats what it was told tells nobody the password."""
    if password:
        text = text.replace(password, "***")
    line = "".join(c if c.isprintable() else " " for c in text)
    return MailError(" ".join(line.split())[:500], final=final)
