"""A provider of accounts of others' making (oidc-provider-mock), over TLS, in its own process."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from contracts import authorities

ACCOUNTS: dict[str, dict[str, Any]] = {
    "ann": {"email": "ann@example.org", "email_verified": True, "groups": ["fleet-admins"]},
    "bob": {"email": "bob@example.org", "email_verified": True, "groups": ["others"]},
    "eve": {"email": "ann@example.org", "email_verified": False, "groups": []},
}
NODE = Path(__file__).with_name("account_provider.mjs")


@contextlib.contextmanager
def account_provider(pem: Path, *, node: Path | None = None) -> Iterator[str]:
    """A provider; its issuer.

    Args:
        pem: a file with certificate and key for 127.0.0.1.
        node: a folder into which ``oidc-provider`` was installed with npm: that one runs.
    """
    command = [sys.executable, "-W", "ignore", __file__, str(pem)]
    environment = {**os.environ, "ACCOUNTS": json.dumps(ACCOUNTS)}
    if node is not None:
        command = ["node", str(NODE), str(pem)]
        environment["NODE_FOLDER"] = str(node)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def sign_in(url: str, name: str, ca: str) -> str:
    """A person's way through the provider's pages; where it sends the browser back to.

    Args:
        url: where the fleet sent the browser.
        name: of the account.
        ca: PEM text of the provider's authority.
    """
    issuer = urlsplit(url).netloc
    with httpx.Client(verify=authorities.context(ca), trust_env=False, timeout=60) as browser:
        answer = browser.get(url)
        for _ in range(20):
            if answer.is_redirect:
                url = urljoin(str(answer.url), answer.headers["location"])
                if urlsplit(url).netloc != issuer:
                    return url
                answer = browser.get(url)
                continue
            action, fields = _form(str(answer.url), answer.text, name)
            answer = browser.post(action, data=fields)
    raise AssertionError(f"no way back from {url}: {answer.status_code} {answer.text[:500]}")


def _form(url: str, page: str, name: str) -> tuple[str, dict[str, str]]:
    """The form of a page, filled in: address and fields."""
    form = re.search(r"<form(.*?)</form>", page, re.DOTALL)
    assert form is not None, page[:2000]
    action = re.search(r'action="([^"]*)"', form[1].partition(">")[0])
    fields = {"sub": name, "login": name, "password": "x"}
    for tag in re.findall(r"<input[^>]*>", form[1]):
        key, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if key is not None and value is not None and "hidden" in tag:
            fields[key[1]] = html.unescape(value[1])
    return urljoin(url, html.unescape(action[1]) if action else ""), fields


def _serve(pem: str) -> None:
    import ssl

    import werkzeug.serving
    from oidc_provider_mock import User, app

    users = [User(sub=sub, claims=claims) for sub, claims in ACCOUNTS.items()]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = werkzeug.serving.make_server(
        "127.0.0.1", 0, app(user_claims=users, require_nonce=True), threaded=True,
        ssl_context=context,
    )  # fmt: skip
    sys.stdout.write(f"https://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1])
