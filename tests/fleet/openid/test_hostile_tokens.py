"""Of what a provider says, only what is signed, ours, of now and of this sign-in is believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from contracts.errors import RefusedError, ShoalError, UnavailableError
from fleet.openid.config import OpenIdConfig, Whom, groups_of, role_of
from fleet.openid.provider import Provider
from tests.support.authorities import Pair

NOW = 1_800_000_000
NONCE = "the nonce of this sign-in"
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
NEW_KEY = ECKey.generate_key("P-256", {"kid": "two", "use": "sig", "alg": "ES256"})
FOREIGN = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})


class Hostile:
    """A provider that says what a test has it say.

    Attributes:
        answer: of the token endpoint.
        account: of the userinfo endpoint.
        keys: that it publishes.
        metadata: that differs from an honest one's.
        asked: forms that came to the token endpoint, and how often keys were asked for.
    """

    def __init__(self, pem: Path) -> None:
        hostile = self
        self.asked: list[dict[str, list[str]]] = []
        self.headers: list[Any] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say(hostile.document(self.path))

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                hostile.asked.append(parse_qs(form))
                hostile.headers.append(self.headers)
                self._say(hostile.answer)

            def _say(self, document: Any) -> None:
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.issuer = f"https://127.0.0.1:{self.server.server_port}"
        self.be_honest()

    def be_honest(self) -> None:
        """As providers are."""
        self.answer: dict[str, Any] = {}
        self.account: dict[str, Any] = {"sub": "ann"}
        self.keys: list[Any] = [KEY]
        self.metadata: dict[str, Any] = {}
        self.asked.clear()
        self.headers.clear()

    def document(self, path: str) -> Any:
        """What is read."""
        if path.startswith("/.well-known/"):
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "userinfo_endpoint": f"{self.issuer}/account",
            } | self.metadata
        if path == "/keys":
            return {"keys": [key.as_dict(private=False) for key in self.keys]}
        return self.account

    def gives(self, token: str) -> None:
        """The token endpoint gives an ID token."""
        self.answer = {"access_token": "a", "token_type": "Bearer", "id_token": token}

    def claims(self, **more: Any) -> dict[str, Any]:
        """Claims that are believed; None takes one out."""
        found = {
            "iss": self.issuer, "aud": "shoal", "sub": "ann", "exp": NOW + 300, "iat": NOW - 1,
            "nonce": NONCE, "email": "ann@example.org", "email_verified": True, "groups": ["g"],
        } | more  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An authority."""
    return Pair(tmp_path_factory.mktemp("pair"), "provider")


@pytest.fixture(scope="module")
def running(pair: Pair) -> Iterator[Hostile]:
    """One server for all tests."""
    made = Hostile(pair.server())
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def hostile(running: Hostile) -> Hostile:
    """It begins as an honest one."""
    running.be_honest()
    return running


def provider(hostile: Hostile, pair: Pair, tmp_path: Path, **more: object) -> Provider:
    """Who believes, or not."""
    config = OpenIdConfig(hostile.issuer, "shoal", {"admin": Whom(groups=["g"])}, **more)  # type: ignore[arg-type]
    back = "https://fleet.test/ui/login/back"
    return Provider(config, tmp_path, back, ca=pair.ca_text, clock=lambda: NOW)


def signed(claims: dict[str, Any], key: Any = KEY, alg: str = "RS256") -> str:
    """An ID token."""
    return jwt.encode({"alg": alg, "kid": key.kid}, claims, key, algorithms=[alg])


def believed(hostile: Hostile, pair: Pair, tmp_path: Path, issuer: str | None = None) -> Any:
    """What is believed of the answer."""
    return provider(hostile, pair, tmp_path).claims("code", NONCE, "v" * 43, issuer)


def test_an_honest_token_is_believed(hostile: Hostile, pair: Pair, tmp_path: Path) -> None:
    """The code goes out with the verifier, and with the secret in the header alone."""
    hostile.gives(signed(hostile.claims()))
    (tmp_path / "secret").write_text("s3cret\n")
    one = provider(hostile, pair, tmp_path, client_secret_file="secret")
    assert one.claims("code", NONCE, "v" * 43, None)["sub"] == "ann"
    (form,) = hostile.asked
    assert form["code_verifier"] == ["v" * 43]
    assert form["redirect_uri"] == ["https://fleet.test/ui/login/back"]
    assert "client_secret" not in form
    assert hostile.headers[0]["Authorization"].startswith("Basic ")


CLAIMS: dict[str, dict[str, Any]] = {
    "of another issuer": {"iss": "https://evil.example"},
    "of no issuer": {"iss": None},
    "for another client": {"aud": "other"},
    "for nobody": {"aud": None},
    "for several, and another is meant": {"aud": ["shoal", "other"], "azp": "other"},
    "for several, and nobody says who is meant": {"aud": ["shoal", "other"]},
    "for another party": {"azp": "other"},
    "expired": {"exp": NOW - 3600},
    "without an end": {"exp": None},
    "of tomorrow": {"iat": NOW + 86400},
    "without a time": {"iat": None},
    "not yet valid": {"nbf": NOW + 86400},
    "of another sign-in": {"nonce": "another"},
    "of no sign-in": {"nonce": None},
    "with a nonce that is no text": {"nonce": [NONCE]},
    "of nobody": {"sub": None},
    "of an empty name": {"sub": ""},
    "of a number": {"sub": 5},
    "with an end that is no number": {"exp": "never"},
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_token_that_says_something_wrong_is_refused(
    hostile: Hostile, pair: Pair, tmp_path: Path, what: str
) -> None:
    """Though its signature is right."""
    hostile.gives(signed(hostile.claims(**CLAIMS[what])))
    with pytest.raises(RefusedError) as error:
        believed(hostile, pair, tmp_path)
    assert error.value.code == "sign-in-refused"


def _part(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def _forged(hostile: Hostile, what: str) -> str:
    good = signed(hostile.claims())
    head, body, signature = good.split(".")
    match what:
        case "unsigned":
            return f"{_part({'alg': 'none'})}.{body}."
        case "without a signature":
            return f"{head}.{body}."
        case "of another body":
            return f"{head}.{_part(hostile.claims(sub='eve'))}.{signature}"
        case "of a key that is not the provider's":
            return signed(hostile.claims(), FOREIGN)
        case "by the public key as a secret":
            said = f"{_part({'alg': 'HS256', 'kid': 'one'})}.{body}"
            mark = hmac.new(KEY.as_pem(private=False), said.encode(), hashlib.sha256).digest()
            return f"{said}.{base64.urlsafe_b64encode(mark).decode().rstrip('=')}"
        case "with its own key":
            header = {"alg": "RS256", "jwk": FOREIGN.as_dict(private=False)}
            return jwt.encode(header, hostile.claims(), FOREIGN, algorithms=["RS256"])
        case "too long":
            return signed(hostile.claims(x="x" * 40_000))
        case _:
            return what


@pytest.mark.parametrize(
    "what",
    [
        "unsigned", "without a signature", "of another body", "with its own key", "too long",
        "of a key that is not the provider's", "by the public key as a secret", "", "a.b.c", "x",
    ],
)  # fmt: skip
def test_a_forged_token_is_refused(hostile: Hostile, pair: Pair, tmp_path: Path, what: str) -> None:
    """Whatever its header says."""
    hostile.gives(_forged(hostile, what))
    with pytest.raises(RefusedError) as error:
        believed(hostile, pair, tmp_path)
    assert error.value.code == "sign-in-refused"


def test_a_key_that_is_new_is_asked_for(hostile: Hostile, pair: Pair, tmp_path: Path) -> None:
    """Providers change their keys; a wrong signature does not have them asked for all the time."""
    now = float(NOW)
    one = provider(hostile, pair, tmp_path)
    one._clock = lambda: now
    hostile.gives(signed(hostile.claims()))
    assert one.claims("code", NONCE, "v" * 43, None)
    hostile.keys = [KEY, NEW_KEY]
    hostile.gives(signed(hostile.claims(), NEW_KEY, "ES256"))
    with pytest.raises(RefusedError):
        one.claims("code", NONCE, "v" * 43, None)
    now += 11
    assert one.claims("code", NONCE, "v" * 43, None)


def test_an_answer_of_another_provider_is_refused(
    hostile: Hostile, pair: Pair, tmp_path: Path
) -> None:
    """Where the browser brings its name, or this one always does (RFC 9207)."""
    hostile.gives(signed(hostile.claims()))
    with pytest.raises(RefusedError):
        believed(hostile, pair, tmp_path, "https://evil.example")
    assert believed(hostile, pair, tmp_path, hostile.issuer)
    hostile.metadata = {"authorization_response_iss_parameter_supported": True}
    with pytest.raises(RefusedError):
        believed(hostile, pair, tmp_path)


def test_what_is_told_of_an_account_is_of_the_same_one(
    hostile: Hostile, pair: Pair, tmp_path: Path
) -> None:
    """It fills in what is not in the ID token, and replaces nothing of it."""
    hostile.gives(signed(hostile.claims(groups=None)))
    hostile.account = {"sub": "ann", "groups": ["g"], "email": "eve@example.org"}
    found = believed(hostile, pair, tmp_path)
    assert (found["groups"], found["email"]) == (["g"], "ann@example.org")
    hostile.account = {"sub": "eve", "groups": ["g"]}
    with pytest.raises(RefusedError):
        believed(hostile, pair, tmp_path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
        {"userinfo_endpoint": "http://127.0.0.1/"},
    ],
)
def test_a_description_that_leads_elsewhere_is_not_followed(
    hostile: Hostile, pair: Pair, tmp_path: Path, metadata: dict[str, Any]
) -> None:
    """The secret goes nowhere without TLS."""
    hostile.metadata = metadata
    hostile.gives(signed(hostile.claims()))
    with pytest.raises(ShoalError):
        believed(hostile, pair, tmp_path)
    assert hostile.asked == []


@pytest.mark.parametrize("answer", [{}, {"error": "invalid_grant"}, [], "x", {"id_token": 5}])
def test_an_answer_that_is_no_token_is_refused(
    hostile: Hostile, pair: Pair, tmp_path: Path, answer: Any
) -> None:
    """In our words."""
    hostile.answer = answer
    with pytest.raises(ShoalError):
        believed(hostile, pair, tmp_path)


def test_a_provider_that_is_away_is_not_a_wrong_account(
    hostile: Hostile, pair: Pair, tmp_path: Path
) -> None:
    """Its authority is not known here."""
    config = OpenIdConfig(hostile.issuer, "shoal", {"admin": Whom(groups=["g"])})
    with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        Provider(config, tmp_path, "https://fleet.test/x").address("s", "n", "v" * 43)


ROLES = OpenIdConfig(
    "https://p.example",
    "shoal",
    {
        "viewer": Whom(emails=["*@example.org"]),
        "operator": Whom(groups=["ops"]),
        "admin": Whom(emails=["Ann@example.org"], groups=["admins"]),
    },
)


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"email": "bob@example.org", "email_verified": True}, "viewer"),
        ({"email": "bob@example.org", "email_verified": "true"}, None),
        ({"email": "bob@example.org"}, None),
        ({"email": "ANN@EXAMPLE.ORG", "email_verified": True}, "admin"),
        ({"email": "ann@example.org.evil.example", "email_verified": True}, None),
        ({"email": "x@evil@example.com", "email_verified": True}, None),
        ({"email": ["ann@example.org"], "email_verified": True}, None),
        ({"groups": ["x", "ops"]}, "operator"),
        ({"groups": "ops"}, "operator"),
        ({"groups": ["ops", "admins"]}, "admin"),
        ({"groups": [["admins"]]}, None),
        ({"groups": {"admins": True}}, None),
        ({}, None),
    ],
)
def test_an_account_is_what_its_groups_and_its_address_say(
    claims: dict[str, Any], role: str | None
) -> None:
    """The highest of several; an address counts when the provider has verified it."""
    assert role_of(claims, ROLES) == role


def test_groups_may_be_deeper() -> None:
    """As Keycloak has them; a name with dots of its own comes first."""
    config = msgspec.structs.replace(ROLES, groups_claim="realm_access.roles")
    assert groups_of({"realm_access": {"roles": ["a", 5]}}, config) == {"a"}
    assert groups_of({"realm_access.roles": ["b"]}, config) == {"b"}
    assert groups_of({"realm_access": "x"}, config) == set()
