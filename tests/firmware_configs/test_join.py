"""The installer of boards, step by step: what is sent to it may be anything."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import ssl
import threading
import types
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import yaml

from contracts.config import AgentConfig, SourceConfig
from fleet.identity.authority import Authority, certificate_pem, key_pem, new_key
from tests.support.tools import free_port

SCRIPT = Path("firmware_configs/linux/join.py")
DATA = bytes(range(256)) * 4000


def installer(url: str, authority: str = "") -> Any:
    """The installer as a module, with a fleet's facts, and without waiting."""
    found = types.ModuleType("join")
    found.__dict__.update({"URL": url, "CA": authority, "UNIT": ""})
    exec(compile(SCRIPT.read_text(), str(SCRIPT), "exec"), found.__dict__)
    found.__dict__["time"] = types.SimpleNamespace(
        sleep=lambda _: None, strftime=found.time.strftime, gmtime=found.time.gmtime
    )
    return found


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with what the test says."""

    answer: Callable[[Answers], None]

    def do_GET(self) -> None:
        type(self).answer(self)

    def do_POST(self) -> None:
        type(self).answer(self)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(answer: Callable[[Any], None], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on loopback; its URL."""
    handler = type("Handler", (Answers,), {"answer": staticmethod(answer)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def whole(request: Answers, data: bytes = DATA, status: int = 200) -> None:
    """All of it."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """Three times in the middle, and what is there is not fetched again."""
    asked: list[str | None] = []

    def breaking(request: Answers) -> None:
        wanted = request.headers.get("Range")
        asked.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        assert request.headers["Shoal-Token"] == "t"
        request.send_response(206 if wanted else 200)
        request.send_header("Content-Length", str(len(DATA) - start))
        request.end_headers()
        end = len(DATA) if len(asked) == 4 else start + 200_000
        request.wfile.write(DATA[start:end])

    with serving(breaking) as url:
        target = tmp_path / "release.zip"
        installer(url).download("t", hashlib.sha256(DATA).hexdigest(), len(DATA), str(target))
    assert target.read_bytes() == DATA
    assert len(asked) == 4
    assert asked[0] is None and all(asked[1:])


@pytest.mark.parametrize(
    "sent", [b"", DATA[:-1], DATA + b"x", b"\0" * len(DATA), b"<html>sign in here</html>"]
)
def test_other_bytes_than_the_signed_ones_are_refused(tmp_path: Path, sent: bytes) -> None:
    """Half a file, a longer one, another one, and a page of somebody in between."""
    with serving(lambda request: whole(request, sent)) as url:
        one = installer(url)
        with pytest.raises(one.Stop, match=r"is not the signed release|broke off"):
            one.download(
                "t", hashlib.sha256(DATA).hexdigest(), len(DATA), str(tmp_path / "release.zip")
            )


@pytest.mark.parametrize(
    ("status", "sent", "says"),
    [
        (409, b'{"error": {"code": "bad-token", "message": "the token has expired"}}', "expired"),
        (200, b"<html>sign in here</html>", "status 200"),
        (502, b"", "status 502"),
        (200, b"[1, 2]", "status 200"),
        (200, b"\xff\xfe", "status 200"),
    ],
)
def test_whatever_answers_a_question_is_one_line(status: int, sent: bytes, says: str) -> None:
    """A refusal in the controller's words; anything else by its status."""
    with serving(lambda request: whole(request, sent, status)) as url:
        one = installer(url)
        with pytest.raises(one.Stop, match=says):
            one.ask("/v1/join", {})


def test_an_archive_never_writes_outside_of_its_folder(tmp_path: Path) -> None:
    """Nor what is no wheel."""
    one = installer("https://fleet.example.org")
    (tmp_path / "wheels").mkdir()
    for name in ("../evil", "/etc/evil", "wheels/../../evil.whl", "wheels/a/b.whl", "wheels/x.sh"):
        archive = tmp_path / "release.zip"
        with zipfile.ZipFile(archive, "w") as sink:
            sink.writestr("release.json", "{}")
            sink.writestr(name, "x")
        with pytest.raises(one.Stop, match="no wheel"):
            one.unpack(str(archive), str(tmp_path / "wheels"))
    assert not list((tmp_path / "wheels").iterdir())


def _context(folder: Path, begins: datetime) -> tuple[ssl.SSLContext, str]:
    """A server's context whose certificate counts from `begins`, and its authority."""
    authority, key = Authority.create("home", begins), new_key()
    certificate = authority.issue_server(["127.0.0.1"], key.public_key(), begins)
    (folder / "server.pem").write_bytes(certificate_pem(certificate) + key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, certificate_pem(authority.certificate).decode()


def test_a_clock_at_which_certificates_do_not_count_yet_is_said_with_both_times(
    tmp_path: Path,
) -> None:
    """And with the command that sets it."""
    context, authority = _context(tmp_path, datetime.now(timezone.utc) + timedelta(days=400))
    with serving(lambda request: whole(request, b"{}"), context) as url:
        one = installer(url, authority)
        with pytest.raises(one.Stop, match=r"the clock of this board is wrong: .* date -u -s"):
            one.ask("/v1/join", {})


def test_a_server_of_another_authority_is_not_asked_anything(tmp_path: Path) -> None:
    """The token is not sent to it."""
    heard: list[bytes] = []
    now = datetime.now(timezone.utc)
    context, _ = _context(tmp_path, now)
    other = certificate_pem(Authority.create("home", now).certificate).decode()

    def hear(request: Answers) -> None:
        heard.append(request.rfile.read(int(request.headers["Content-Length"])))
        whole(request, b"{}")

    with serving(hear, context) as url:
        one = installer(url, other)
        with pytest.raises(one.Stop, match="is not the controller of this fleet"):
            one.ask("/v1/join", {"token": "secret"})
    assert heard == []


def test_why_the_controller_is_not_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens; no such name; a proxy is set, which is not used."""
    monkeypatch.delenv("https_proxy", raising=False)
    one = installer(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(one.Stop, match="nothing listens at"):
        one.ask("/v1/join", {})
    assert "DNS" in one.unreachable(socket.gaierror(-2, "Name or service not known"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    for number in (101, 113):
        said = one.unreachable(OSError(number, "No route to host"))
        assert "no network of this board leads to http://127.0.0.1" in said
        assert "https_proxy is set" in said
        assert "\n" not in said
    assert "a firewall, or no route" in one.unreachable(TimeoutError("timed out"))


@pytest.mark.parametrize("share", ["ask", "hard"])
def test_who_types_the_line_is_told_that_texts_may_leave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: Literal["ask", "hard"]
) -> None:
    """From the configuration as the agent writes it."""
    config = AgentConfig(
        fleet="f", device="d", board="b", trust_root="{}",
        sources=[SourceConfig("hall", "unix", "/run/share: hard", share=share)],
    )  # fmt: skip
    found = installer("http://127.0.0.1:1")
    found.CONFIG = str(tmp_path / "agent.yaml")
    Path(found.CONFIG).write_text(yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False))
    found.leaving()
    assert ("let texts leave this board" in capsys.readouterr().out) == (share == "hard")
