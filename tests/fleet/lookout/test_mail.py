"""Mail goes to a server of others' making: over TLS, signed in, tried again, never in the way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import msgspec
import pytest

from contracts.errors import InputError
from fleet import smtp
from fleet.mailer import Mailer
from fleet.smtp import MailConfig, MailError, Post, check, check_address
from fleet.store import Store, mail
from tests.support.authorities import Pair
from tests.support.mail_server import PASSWORD, USER, MailServer, mail_server

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An authority and a server's certificate."""
    return Pair(tmp_path_factory.mktemp("pair"), "mail")


@pytest.fixture(scope="module")
def server(pair: Pair) -> Iterator[MailServer]:
    """A server that wants STARTTLS and a sign-in."""
    with mail_server(pair.server()) as running:
        yield running


def settings(port: int, **more: object) -> MailConfig:
    """The settings for a server that wants a sign-in."""
    known = MailConfig(
        "127.0.0.1", "shoal@example.org", port=port, user=USER, password_file="password"
    )
    return msgspec.structs.replace(known, **more)


def post(folder: Path, config: MailConfig, pair: Pair | None, password: str = PASSWORD) -> Post:
    """A fleet's folder with the password in a file."""
    (folder / "password").write_text(password + "\n")
    return Post(config, folder, pair.ca_text if pair else "")


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_message_arrives_over_tls_by_who_signed_in(tmp_path: Path, pair: Pair, tls: str) -> None:
    """Whole, with its subject in one line, and with words of any language."""
    with mail_server(pair.server(), tls=tls) as running:
        config = settings(running.port, security=tls)
        post(tmp_path, config, pair).send("ann@example.org", "Küche\nis hot", "80 °C\n", "1@f")
        got = running.messages.get(timeout=60)
    assert (got["to"], got["from"], got["user"]) == (["ann@example.org"], "shoal@example.org", USER)
    assert got["tls"]
    message = message_from_bytes(got["content"].encode(), policy=default)
    assert message["Subject"] == "Küche is hot"
    assert message["Message-ID"] == "<1@f>"
    assert message.get_content().strip() == "80 °C"


def test_the_password_may_come_from_the_environment(
    tmp_path: Path, pair: Pair, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read when it is needed."""
    config = settings(server.port, password_file="", password_env="MAIL_WORD")
    sender = Post(config, tmp_path, pair.ca_text)
    with pytest.raises(MailError, match="MAIL_WORD"):
        sender.send("ann@example.org", "s", "b", "1@f")
    monkeypatch.setenv("MAIL_WORD", PASSWORD)
    sender.send("ann@example.org", "s", "b", "2@f")
    assert server.messages.get(timeout=60)["user"] == USER


def test_a_server_of_another_authority_gets_neither_password_nor_message(
    tmp_path: Path, server: MailServer
) -> None:
    """The certificate is checked before anything is said."""
    with pytest.raises(MailError, match="CERTIFICATE_VERIFY_FAILED") as error:
        post(tmp_path, settings(server.port), None).send("a@example.org", "s", "b", "1@f")
    assert not error.value.final
    assert server.messages.empty()


@pytest.mark.parametrize(
    ("recipient", "password", "says", "final"),
    [
        ("nobody@example.org", PASSWORD, "550 no such user", True),
        ("later@example.org", PASSWORD, "451 try again later", False),
        ("ann@example.org", "wrong-secret", "535", False),
    ],
)
def test_what_the_server_says_is_told_without_the_password(
    tmp_path: Path, pair: Pair, server: MailServer, recipient: str, password: str, says: str,
    final: bool,
) -> None:  # fmt: skip
    """And whether another try may go better."""
    sender = post(tmp_path, settings(server.port), pair, password)
    with pytest.raises(MailError, match=says) as error:
        sender.send(recipient, "s", "b", "1@f")
    assert error.value.final is final
    assert password not in str(error.value)


def test_a_password_that_the_server_repeats_is_told_to_nobody(tmp_path: Path) -> None:
    """A server may say anything."""

    def speak(connection: socket.socket) -> None:
        file = connection.makefile("rwb")
        file.write(b"220 hi\r\n")
        file.flush()
        for line in file:
            word = line.split()[0].upper()
            file.write(
                {
                    b"EHLO": b"250-x\r\n250 AUTH LOGIN\r\n",
                    b"AUTH": b"334 UGFzc3dvcmQ6\r\n",
                }.get(word, b"535 not c0rrect-h0rse\r\n")
            )
            file.flush()

    with speaking(speak) as port:
        config = settings(port, security="none")
        with pytest.raises(MailError, match=r"not \*\*\*") as error:
            post(tmp_path, config, None, "c0rrect-h0rse").send("a@example.org", "s", "b", "1@f")
    assert "c0rrect" not in str(error.value)


@contextlib.contextmanager
def speaking(speak: object) -> Iterator[int]:
    """A server on loopback that says what a test has it say; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError, IndexError):
                        speak(connection)  # type: ignore[operator]

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_that_drips_is_left_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line comes in time; the whole takes for ever."""
    monkeypatch.setattr(smtp, "DEADLINE_S", 0.3)
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"220-x\r\n")
        while not over.wait(0.02):
            connection.sendall(b"220-x\r\n")

    with speaking(drip) as port:
        config = settings(port, security="none", user="", password_file="")
        with pytest.raises(MailError):
            post(tmp_path, config, None).send("a@example.org", "s", "b", "1@f")
        over.set()


def test_a_stop_does_not_wait_for_a_server_that_says_nothing(store: Store, tmp_path: Path) -> None:
    """And the message stays as it was: it was not the server's failure."""
    waiting, over = threading.Event(), threading.Event()

    def silent(_connection: socket.socket) -> None:
        waiting.set()
        over.wait(60)

    with store.write() as connection:
        mail.enqueue(connection, "alert", ["a@example.org"], "s", "b", NOW)
    with speaking(silent) as port:
        config = settings(port, security="none", user="", password_file="")
        sender = Mailer(store, post(tmp_path, config, None), lambda: NOW)
        sender.start()
        assert waiting.wait(60)
        sender.stop()
        assert not sender._thread.is_alive()
        over.set()
    with store.read() as connection:
        (one,) = mail.newest(connection, 5)
    assert (one.attempts, one.error) == (0, None)


def test_each_outcome_is_kept_and_what_failed_is_tried_again_later(
    store: Store, tmp_path: Path, pair: Pair, server: MailServer
) -> None:
    """Taken, refused for good, refused for now; the waits double, and end."""
    recipients = ["ann@example.org", "nobody@example.org", "later@example.org"]
    with store.write() as connection:
        mail.enqueue(connection, "alert", recipients, "s", "b", NOW)
    now = NOW
    sender = Mailer(store, post(tmp_path, settings(server.port), pair), lambda: now)
    assert sender.send() == 1
    assert server.messages.get(timeout=60)["to"] == ["ann@example.org"]

    def outcomes() -> dict[str, mail.Mail]:
        with store.read() as connection:
            return {one.recipient: one for one in mail.newest(connection, 9)}

    taken, refused, later = (outcomes()[one] for one in recipients)
    assert (taken.delivered_at, taken.next_at, taken.error) == (NOW, None, None)
    assert (refused.delivered_at, refused.next_at) == (None, None)
    assert "550" in str(refused.error)
    assert (later.delivered_at, later.next_at) == (None, NOW + 30)
    assert sender.send() == 0
    assert outcomes()["later@example.org"].attempts == 1, "not before its time"
    now = NOW + 30
    assert sender.send() == 0
    assert outcomes()["later@example.org"].next_at == now + 60
    for _ in range(mail.MAX_ATTEMPTS):
        now += 7200
        sender.send()
    assert outcomes()["later@example.org"].attempts == mail.MAX_ATTEMPTS
    assert outcomes()["later@example.org"].next_at is None


def test_a_server_that_refuses_connections_is_no_more_than_a_failed_try(
    store: Store, tmp_path: Path
) -> None:
    """The next message is tried too."""
    with store.write() as connection:
        mail.enqueue(connection, "alert", ["a@example.org", "b@example.org"], "s", "b", NOW)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sender = Mailer(store, post(tmp_path, settings(port), None), lambda: NOW)
    assert sender.send() == 0
    with store.read() as connection:
        assert [one.attempts for one in mail.newest(connection, 9)] == [1, 1]


def test_a_server_that_is_away_does_not_fill_the_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes on top is listed as not kept."""
    monkeypatch.setattr(mail, "MAX_WAITING", 2)
    with store.write() as connection:
        for _ in range(3):
            mail.enqueue(connection, "alert", ["a@example.org"], "s", "b", NOW)
        newest, *rest = mail.newest(connection, 9)
    assert newest.next_at is None
    assert "not kept" in str(newest.error)
    assert all(one.next_at == NOW for one in rest)


@pytest.mark.parametrize(
    "address",
    ["a", "a@", "@b", "a@b c", "a@b\r\nRCPT TO:<c@d>", "a@b>", "ü@example.org", "a,b@c", "a" * 300],
)
def test_what_is_no_address_goes_into_no_message(address: str) -> None:
    """Nor does a second one."""
    with pytest.raises(InputError, match="no e-mail address"):
        check_address(address)


@pytest.mark.parametrize(
    "wrong",
    [
        MailConfig("mail.example.org", "a@example.org", security="none"),
        MailConfig("mail.example.org", "a@example.org", user="a"),
        MailConfig("mail.example.org", "a@example.org", password_file="p"),
        MailConfig("m", "a@example.org", user="a", password_file="p", password_env="P"),
        MailConfig("mail.example.org", "nobody"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: MailConfig) -> None:
    """A password without TLS, a user without one, two of them, a sender that is no address."""
    with pytest.raises(InputError):
        check(wrong)
