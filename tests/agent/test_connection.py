"""When a device tries again, and what it says of why it was refused."""

from __future__ import annotations

import ssl

import pytest

from agent import connection
from agent.connection import Backoff, fingerprint, why
from contracts.config import TlsConfig
from tests.support.certificates import new_tls

LEAST, MOST = (lambda low, high: low), (lambda low, high: high)


def test_waits_double_up_to_a_minute_and_are_spread_out() -> None:
    """A fleet whose broker comes back must not come back at once."""
    most = Backoff(MOST)
    assert [most.failed() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    least = Backoff(LEAST)
    assert [least.failed() for _ in range(9)] == [0.1] * 9


def test_a_connection_that_did_not_last_is_no_success() -> None:
    """One that breaks again and again is made less and less often; a steady one begins anew."""
    backoff = Backoff(MOST)
    assert [backoff.lost(1.0) for _ in range(4)] == [0.5, 1, 2, 4]
    assert backoff.lost(connection.STEADY_S) == 0.5


def test_who_is_taken_over_waits_longer_and_longer() -> None:
    """Two devices with one identity cost next to nothing after a few minutes."""
    most, least = Backoff(MOST), Backoff(LEAST)
    waits = [most.taken(1.0) for _ in range(9)]
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert [least.taken(1.0) for _ in range(3)] == [2.5, 5, 10], "never at once"
    # Each of two has the session for as long as the other waits: that is no peace.
    assert most.taken(connection.MAX_TAKEN_S) == 600
    assert most.taken(2 * connection.MAX_TAKEN_S + 1) == 5, "it was alone for long"


def test_two_with_one_identity_take_it_from_one_another_a_few_times_a_day() -> None:
    """The pair of them, for a day: it was 1.8 times a second."""
    devices = [Backoff(), Backoff()]
    now, taken, since, back = 0.0, 0, [0.0, 0.0], [0.0, 1.0]
    holder = 0
    while now < 86400:
        other = 1 - holder
        now = back[other]
        back[holder] = now + devices[holder].taken(now - since[holder])
        since[other], holder = now, other
        taken += 1
    assert taken < 500


def test_who_was_told_to_leave_is_in_no_hurry_until_it_is_let_in() -> None:
    """A quarter of an hour, also after a connection that lasted."""
    backoff = Backoff(LEAST)
    backoff.dismissed(dismissed=True)
    assert backoff.failed() == backoff.lost(1e6) == connection.DISMISSED_S / 2
    backoff.dismissed(dismissed=False)
    assert backoff.failed() < 1


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("SSLV3_ALERT_CERTIFICATE_REVOKED", "revoked"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "expired"),
        ("TLSV1_ALERT_UNKNOWN_CA", "another authority"),
    ],
)
def test_a_refused_certificate_is_named_with_the_reason(reason: str, said: str) -> None:
    """And with what to do; other errors are told as they are."""
    error = ssl.SSLError(1, "[SSL]")
    error.reason = reason
    assert said in why(error) and "enrol the device again" in why(error)
    assert why(OSError(5, "Input/output error")) == "Input/output error"
    assert why(None, "Keep alive timeout") == "Keep alive timeout"
    assert why(None, "Unspecified error") == "the broker closed it"


def test_a_certificate_is_named_by_its_digest_however_it_is_given() -> None:
    """With its key in one text, as the renewed one is stored; what is none has no name."""
    tls = new_tls()
    pem, key = tls.certificate or "", tls.key or ""
    alone = fingerprint(TlsConfig(ca="", certificate=pem, key=key))
    assert len(alone) == 64
    assert fingerprint(TlsConfig(ca="", certificate=f"{pem.strip()}\n{key}")) == alone
    assert fingerprint(TlsConfig(ca="", certificate=f"{key}\n{pem}")) == alone
    for text in (None, "", "device.pem", ssl.PEM_HEADER, f"{ssl.PEM_HEADER}\nä\n{ssl.PEM_FOOTER}"):
        assert fingerprint(TlsConfig(ca="", certificate=text)) == ""
    assert fingerprint(None) == ""
