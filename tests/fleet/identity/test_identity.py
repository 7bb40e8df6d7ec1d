"""Certificates, one-time tokens, renewal and revocation.

Over 400 lines: one authority, and the life of a certificate in its order.
"""

from __future__ import annotations

import base64
import copy
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts import codec
from contracts.config import AgentConfig, MqttConfig
from contracts.errors import InputError, RefusedError, ShoalError
from contracts.renewal import signed_bytes
from fleet.identity import Enrolment, Identity, authority, provisioning
from fleet.identity.own import Access
from fleet.identity.registry import fingerprint

DAY = 86400.0
WHERE = Enrolment(
    MqttConfig(host="broker.example", port=8883),
    trust_root='{"signed": {}}\n',
    repository_url="https://fleet.example/repo/",
    renewal_url="https://fleet.example/v1/renew",
)


class Clock:
    """A clock that tests set."""

    now = datetime(2026, 3, 1, tzinfo=timezone.utc).timestamp()

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """March 2026, until a test moves it."""
    return Clock()


@pytest.fixture
def identity(tmp_path: Path, clock: Clock) -> Identity:
    """A new authority of fleet `reef`."""
    return Identity.create(tmp_path / "identity", "reef", clock=clock)


def csr(
    key: object = None, name: str | None = "d1", sign: Callable[[bytes], bytes] = bytes
) -> bytes:
    """A signing request as a device makes it."""
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name is not None else []
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    signed = request.sign(key or authority.new_key(), hashes.SHA256())  # type: ignore[arg-type]
    return sign(signed.public_bytes(serialization.Encoding.PEM))


def by_token(identity: Identity, request: bytes, device: str = "d1") -> AgentConfig:
    """Enrols a device whose key stays with it."""
    return identity.redeem(identity.new_token(device, "b"), request, WHERE)


def access(identity: Identity) -> Access:
    """Who may do what on the broker now."""
    with identity.own.access() as found:
        return found


def certificate_of(config: AgentConfig) -> x509.Certificate:
    """The device certificate inside a configuration."""
    assert config.mqtt.tls is not None and config.mqtt.tls.certificate is not None
    return x509.load_pem_x509_certificate(config.mqtt.tls.certificate.encode())


# Enrolment ----------------------------------------------------------------------------------


def test_enrolment_gives_one_file_with_everything_inside(
    identity: Identity, tmp_path: Path
) -> None:
    """The YAML file, mode 0600, reads back as the same configuration."""
    config = identity.enroll(
        "d1", "raspberry-pi-5", WHERE, labels={"site": "lyon"}, groups=["kitchen"]
    )
    path = tmp_path / "out" / "agent.yaml"
    provisioning.write(config, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert codec.convert_yaml(path.read_bytes(), AgentConfig, what="agent.yaml") == config
    assert (config.fleet, config.device, config.board) == ("reef", "d1", "raspberry-pi-5")
    assert (config.labels, config.groups) == ({"site": "lyon"}, ["kitchen"])
    assert config.trust_root == WHERE.trust_root
    assert config.mqtt.tls is not None and "PRIVATE KEY" in (config.mqtt.tls.key or "")
    with pytest.raises(FileExistsError):
        provisioning.write(config, path)


def test_a_device_certificate_is_for_its_name_and_for_clients_alone(
    identity: Identity, clock: Clock
) -> None:
    """Common name, purpose, no authority, bounded validity, a long random serial number."""
    certificate = certificate_of(identity.enroll("d1", "b", WHERE, days=30))
    assert authority.common_name(certificate) == "d1"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert usage.critical and list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and not constraints.value.ca
    key_usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert key_usage.digital_signature and not key_usage.key_cert_sign
    now = datetime.fromtimestamp(clock.now, timezone.utc)
    assert certificate.not_valid_after_utc == now + timedelta(days=30)
    assert now - timedelta(hours=1) < certificate.not_valid_before_utc < now
    assert certificate.serial_number.bit_length() > 100
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificate(identity.own.ca_pem.encode())
    )


def test_a_certificate_never_outlives_the_authority(identity: Identity) -> None:
    """However many days are asked for."""
    certificate = certificate_of(identity.enroll("d1", "b", WHERE, days=100_000))
    ca = x509.load_pem_x509_certificate(identity.own.ca_pem.encode())
    assert certificate.not_valid_after_utc == ca.not_valid_after_utc


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "+",
        "#",
        "a b",
        "../x",
        "x" * 65,
        "é",
        "a\n",
        "shoal-controller",
        "shoal-broker",
        ".x",
    ],
)
def test_a_name_that_could_open_other_topics_is_refused(identity: Identity, name: str) -> None:
    """Wildcards, separators, and the names of the fleet's own parts."""
    for enroll in (
        lambda: identity.enroll(name, "b", WHERE),
        lambda: identity.new_token(name, "b"),
    ):
        with pytest.raises(InputError) as caught:
            enroll()
        assert caught.value.code in ("bad-name", "reserved-name")


def test_a_device_is_not_enrolled_twice_by_accident(identity: Identity) -> None:
    """Replacing it revokes what it had."""
    first = certificate_of(identity.enroll("d1", "b", WHERE))
    with pytest.raises(InputError) as caught:
        identity.enroll("d1", "b", WHERE)
    assert caught.value.code == "already-enrolled"
    identity.enroll("d1", "b", WHERE, replace=True)
    assert revoked(identity) == {first.serial_number}


def test_a_plain_fleet_on_loopback_needs_no_certificates(identity: Identity) -> None:
    """For the embedded broker of a demo."""
    where = Enrolment(MqttConfig(port=1883), "{}", mutual_tls=False)
    config = identity.enroll("d1", "b", where)
    assert config.mqtt.tls is None
    assert access(identity).groups == {"d1": []}


def test_secrets_are_readable_by_their_owner_alone(identity: Identity) -> None:
    """Every key and the database; an exposed authority's key is refused."""
    for path in identity.folder.iterdir():
        if path.name.endswith(("key.pem", "identity.db")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(identity.folder.stat().st_mode) == 0o700
    (identity.folder / "ca.key.pem").chmod(0o640)
    with pytest.raises(InputError) as caught:
        Identity.open(identity.folder)
    assert caught.value.code == "key-exposed"


def test_a_passphrase_protects_the_authority(tmp_path: Path) -> None:
    """Without it nothing is issued."""
    folder = tmp_path / "identity"
    Identity.create(folder, "reef", passphrase=b"correct")
    for passphrase in (None, b"wrong"):
        with pytest.raises(InputError) as caught:
            Identity.open(folder, passphrase=passphrase)
        assert caught.value.code == "key-locked"
    Identity.open(folder, passphrase=b"correct").enroll("d1", "b", WHERE)


def test_an_authority_is_not_made_over_another_but_is_after_a_crash(
    identity: Identity, tmp_path: Path
) -> None:
    """A whole one is kept; one that a crash left half is made anew."""
    with pytest.raises(InputError) as caught:
        Identity.create(identity.folder, "reef")
    assert caught.value.code == "already-an-authority"
    (identity.folder / "ca.pem").unlink()
    Identity.create(identity.folder, "reef")
    assert Identity.open(identity.folder).fleet == "reef"


# Signing requests -----------------------------------------------------------------------------


def test_a_signing_request_keeps_the_key_on_the_device(identity: Identity) -> None:
    """The certificate carries the request's key; the answer carries no private key."""
    key = authority.new_key()
    config = by_token(identity, csr(key))
    assert certificate_of(config).public_key() == key.public_key()
    assert config.mqtt.tls is not None and config.mqtt.tls.key == "device.key.pem"
    assert b"PRIVATE" not in provisioning.to_yaml(config).replace(b"its private key", b"")


def test_a_signing_request_cannot_ask_for_more_than_a_device_gets(identity: Identity) -> None:
    """Asked-for extensions (an authority, a server's purpose) are ignored."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority.new_key(), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    certificate = certificate_of(by_token(identity, request))
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def tampered(pem: bytes) -> bytes:
    """The request with a bit of its signature flipped."""
    request = x509.load_pem_x509_csr(pem)
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der))
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    "request_pem",
    [
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: b"noise", id="noise"),
        pytest.param(lambda: b"x" * 100_000, id="long"),
        pytest.param(lambda: csr(name="other"), id="of another device"),
        pytest.param(lambda: csr(rsa.generate_private_key(65537, 1024)), id="weak key"),
        pytest.param(lambda: csr(ec.generate_private_key(ec.SECP192R1())), id="weak curve"),
        pytest.param(lambda: csr(sign=tampered), id="not signed by its key"),
        pytest.param(lambda: csr()[:-60], id="cut"),
    ],
)
def test_a_bad_signing_request_is_refused(
    identity: Identity, request_pem: Callable[[], bytes]
) -> None:
    """And the device is not enrolled by it."""
    with pytest.raises(InputError) as caught:
        by_token(identity, request_pem())
    assert caught.value.code == "bad-request"
    assert access(identity).groups == {}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=500), place=st.integers(0, 500))
def test_any_bytes_as_a_signing_request_give_one_clear_error(noise: bytes, place: int) -> None:
    """Noise, and a real request with noise in it."""
    real = csr()
    for pem in (noise, real[:place] + noise[:3] + real[place + 3 :]):
        try:
            authority.parse_request(pem, "d1")
        except InputError as error:
            assert error.code == "bad-request"
        try:
            authority.parse_certificate(pem)
        except InputError as error:
            assert error.code == "bad-certificate"


# Tokens ---------------------------------------------------------------------------------------


def test_a_token_enrols_its_device_once(identity: Identity) -> None:
    """With the board, labels and groups that were decided when it was made."""
    token = identity.new_token("d1", "pico-2-w", labels={"site": "graz"}, groups=["g"])
    config = identity.redeem(token, csr(), WHERE)
    assert (config.device, config.board, config.labels) == ("d1", "pico-2-w", {"site": "graz"})
    assert access(identity).groups == {"d1": ["g"]}
    with pytest.raises(RefusedError) as caught:
        identity.redeem(token, csr(), WHERE)
    assert caught.value.code == "bad-token"


def test_who_asks_again_with_the_same_token_and_key_gets_the_same_certificate(
    identity: Identity, clock: Clock
) -> None:
    """The first answer was lost. Another key, a revoked device and a late one get nothing."""
    token, request = identity.new_token("d1", "b", groups=["g"]), csr()
    first = identity.redeem(token, request, WHERE)
    assert identity.redeem(token, request, WHERE) == first
    assert len(identity.certificates("d1")) == 1
    late, another = identity.new_token("d2", "b", seconds=60), csr(name="d2")
    identity.redeem(late, another, WHERE)
    clock.now += 61
    identity.revoke("d1")
    for refused, asked in [(token, csr()), (token, request), (late, another)]:
        with pytest.raises(RefusedError) as caught:
            identity.redeem(refused, asked, WHERE)
        assert caught.value.code == "bad-token"
    assert access(identity).denied == ["d1"]


def test_of_two_requests_that_race_for_a_token_one_gets_it(identity: Identity) -> None:
    """Many at once, each with a key of its own, from threads with connections of their own."""
    for round_ in range(5):
        token = identity.new_token(f"d{round_}", "b")
        requests = iter([csr(name=f"d{round_}") for _ in range(8)])
        gate = threading.Barrier(8)
        results: list[str] = []

        def redeem(token: str = token, requests=requests, gate=gate, results=results) -> None:
            request = next(requests)
            gate.wait()
            try:
                identity.redeem(token, request, WHERE)
                results.append("enrolled")
            except ShoalError as error:
                results.append(error.code)

        threads = [threading.Thread(target=redeem) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == ["bad-token"] * 7 + ["enrolled"]
        assert len(identity.certificates(f"d{round_}")) == 1


def test_a_token_runs_out(identity: Identity, clock: Clock) -> None:
    """And one can not be made to last."""
    token = identity.new_token("d1", "b", seconds=60)
    clock.now += 61
    with pytest.raises(RefusedError):
        identity.redeem(token, csr(), WHERE)
    for seconds in (0, -1, 1e9, float("nan")):
        with pytest.raises(InputError) as caught:
            identity.new_token("d1", "b", seconds=seconds)
        assert caught.value.code == "bad-duration"


def test_a_refused_request_does_not_use_a_token_up(identity: Identity) -> None:
    """A device with a faulty request may try again."""
    token = identity.new_token("d1", "b")
    with pytest.raises(InputError):
        identity.redeem(token, b"noise", WHERE)
    identity.redeem(token, csr(), WHERE)


def test_a_token_is_stored_as_its_hash_alone(identity: Identity) -> None:
    """Whoever reads the database cannot enrol a device."""
    token = identity.new_token("d1", "b")
    for path in identity.folder.glob("identity.db*"):
        assert token.encode() not in path.read_bytes()


@pytest.mark.parametrize("token", ["", "x", "\udcff", "\ud800", "' OR 1=1 --", "x" * 10_000])
def test_a_guessed_token_is_refused(identity: Identity, token: str) -> None:
    """Also one that is not text."""
    identity.new_token("d1", "b")
    with pytest.raises(RefusedError) as caught:
        identity.redeem(token, csr(), WHERE)
    assert caught.value.code == "bad-token"


# Renewal --------------------------------------------------------------------------------------


def proof(key: ec.EllipticCurvePrivateKey, request: bytes) -> str:
    """What a device signs with its current key."""
    return base64.b64encode(key.sign(signed_bytes(request), ec.ECDSA(hashes.SHA256()))).decode()


class Device:
    """A device that made its own key."""

    def __init__(self, identity: Identity, name: str = "d1") -> None:
        self.key = authority.new_key()
        config = by_token(identity, csr(self.key, name), name)
        assert config.mqtt.tls is not None and config.mqtt.tls.certificate is not None
        self.pem = config.mqtt.tls.certificate.encode()


@pytest.mark.parametrize("same_key", [True, False])
def test_a_device_renews_its_certificate(identity: Identity, clock: Clock, same_key: bool) -> None:
    """With the same key or a new one; asked again, it gets the same certificate."""
    device = Device(identity)
    clock.now += 300 * DAY
    key = device.key if same_key else authority.new_key()
    request = csr(key)
    renewed = identity.renew(device.pem, request, proof(device.key, request))
    certificate = x509.load_pem_x509_certificate(renewed.encode())
    assert certificate.public_key() == key.public_key()
    assert authority.common_name(certificate) == "d1"
    assert certificate.not_valid_after_utc.timestamp() == clock.now + 365 * DAY
    assert identity.renew(device.pem, request, proof(device.key, request)) == renewed
    assert len(identity.certificates("d1")) == 2


def test_renewal_is_refused_without_proof_of_the_current_key(identity: Identity) -> None:
    """A certificate is public: whoever saw one must not get the next."""
    device, request = Device(identity), csr(authority.new_key())
    thief = authority.new_key()
    for signature in (proof(thief, request), "", "!!", proof(device.key, csr())):
        with pytest.raises(RefusedError) as caught:
            identity.renew(device.pem, request, signature)
        assert caught.value.code == "bad-certificate"


def test_renewal_is_refused_for_revoked_expired_and_foreign_certificates(
    identity: Identity, clock: Clock, tmp_path: Path
) -> None:
    """And for the controller's own, which no device may renew."""
    foreign = Device(Identity.create(tmp_path / "other", "reef", clock=clock))
    revoked_device, expired = Device(identity, "d2"), Device(identity, "d3")
    identity.revoke("d2")
    for device, name in ((foreign, "d1"), (revoked_device, "d2")):
        request = csr(name=name)
        with pytest.raises(RefusedError):
            identity.renew(device.pem, request, proof(device.key, request))
    clock.now += 366 * DAY
    request = csr(name="d3")
    with pytest.raises(RefusedError):
        identity.renew(expired.pem, request, proof(expired.key, request))
    key = serialization.load_pem_private_key(
        (identity.folder / "controller.key.pem").read_bytes(), None
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    request = csr(name="shoal-controller")
    with pytest.raises(RefusedError):
        identity.renew(
            (identity.folder / "controller.pem").read_bytes(), request, proof(key, request)
        )


def test_renewal_cannot_change_the_name(identity: Identity) -> None:
    """A device asks for another's certificate with its own proof."""
    device, request = Device(identity), csr(name="d2")
    with pytest.raises(InputError) as caught:
        identity.renew(device.pem, request, proof(device.key, request))
    assert caught.value.code == "bad-request"


def renewed(identity: Identity, device: Device, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The device's next certificate, with a key of its own."""
    request = csr(key)
    return identity.renew(device.pem, request, proof(device.key, request)).encode()


def next_of(device: Device, identity: Identity) -> Device:
    """The device after a renewal."""
    after = copy.copy(device)
    after.key = authority.new_key()
    after.pem = renewed(identity, device, after.key)
    return after


def seen(identity: Identity, device: Device) -> None:
    """The controller hears of the device with this certificate."""
    with identity.registry.transaction() as transaction:
        sha256 = fingerprint(device.pem.decode())
        assert transaction.note_used("d1", sha256, identity._clock()) is not None


def superseded(identity: Identity, device: Device) -> bool:
    """Whether another renewal of it is refused as that of a copy."""
    try:
        renewed(identity, device, authority.new_key())
    except RefusedError as error:
        assert error.code == "superseded"
        assert error.info.detail["device"] == "d1"
        return True
    return False


def test_a_certificate_is_not_renewed_once_a_newer_one_is_in_use(
    identity: Identity, clock: Clock
) -> None:
    """Until then it is: the answer may have been lost. A copy of the old key gets nothing."""
    first = Device(identity)
    clock.now += 1
    lost, second = next_of(first, identity), next_of(first, identity)
    assert lost.pem != second.pem
    seen(identity, second)
    assert superseded(identity, first)
    assert superseded(identity, lost), "given before the one in use"
    clock.now += 1
    third = next_of(second, identity)
    assert not superseded(identity, second), "nobody was seen with the third yet"
    seen(identity, third)
    assert superseded(identity, second)


def test_a_renewal_proves_that_its_certificate_is_in_use(identity: Identity, clock: Clock) -> None:
    """Also of an agent that does not say which one it has."""
    first = Device(identity)
    clock.now += 1
    second = next_of(first, identity)
    clock.now += 1
    next_of(second, identity)
    assert superseded(identity, first)


def test_a_revoked_newer_certificate_supersedes_nothing(identity: Identity, clock: Clock) -> None:
    """A device that is enrolled again begins anew."""
    first = Device(identity)
    seen(identity, first)
    identity.revoke("d1")
    clock.now += 1
    again = Device(identity)
    assert not superseded(identity, again)


def test_a_registry_of_an_earlier_version_is_read(
    identity: Identity, clock: Clock, tmp_path: Path
) -> None:
    """What it issued can be seen in use, and renewed."""
    device = Device(identity)
    with closing(sqlite3.connect(identity.folder / "identity.db")) as connection:
        for column in ("parent", "sha256", "used"):
            connection.execute(f"ALTER TABLE certificates DROP COLUMN {column}")
    identity = Identity.open(identity.folder, clock=clock)
    seen(identity, device)
    clock.now += 1
    second = next_of(device, identity)
    seen(identity, second)
    assert superseded(identity, device)


# Revocation -----------------------------------------------------------------------------------


def revoked(identity: Identity) -> set[int]:
    """The serial numbers in the list on disk."""
    crl = x509.load_pem_x509_crl((identity.folder / "crl.pem").read_bytes())
    ca = x509.load_pem_x509_certificate(identity.own.ca_pem.encode())
    assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    return {entry.serial_number for entry in crl}


def test_revoking_lists_every_certificate_of_a_device(identity: Identity, clock: Clock) -> None:
    """The renewed one too, and nobody else's."""
    device = Device(identity)
    Device(identity, "d2")
    request = csr()
    clock.now += 1
    identity.renew(device.pem, request, proof(device.key, request))
    assert identity.revoke("d1") == 2
    assert revoked(identity) == {c.serial for c in identity.certificates("d1")}
    assert (access(identity).groups, access(identity).denied) == ({"d2": []}, ["d1"])
    assert identity.revoke("d1") == 0


def test_a_revoked_device_may_be_enrolled_again_with_a_new_certificate(
    identity: Identity,
) -> None:
    """The old one stays on the list."""
    old = certificate_of(identity.enroll("d1", "b", WHERE)).serial_number
    identity.revoke("d1")
    new = certificate_of(identity.enroll("d1", "b", WHERE)).serial_number
    assert revoked(identity) == {old}
    assert new != old
    assert access(identity).denied == []


def test_the_list_drops_what_expired_by_itself(identity: Identity, clock: Clock) -> None:
    """So that it does not grow for ever."""
    identity.enroll("d1", "b", WHERE, days=10)
    identity.revoke("d1")
    clock.now += 11 * DAY
    identity.own.write_revocations()
    assert revoked(identity) == set()


def test_revoking_who_was_never_enrolled_says_so(identity: Identity) -> None:
    """A typing error must not pass for a revocation."""
    with pytest.raises(InputError) as caught:
        identity.revoke("nobody")
    assert caught.value.code == "no-such-device"


def test_a_retired_device_leaves_its_name(identity: Identity, clock: Clock) -> None:
    """Its certificates are revoked; who has the name next is another device."""
    old = Device(identity)
    assert identity.retire("d1") == 1
    identity.own.write_revocations()
    assert access(identity) == Access({}, ["d1"]), "its open connection may do nothing"
    with pytest.raises(InputError):
        identity.retire("d1")
    clock.now += 1
    new = Device(identity)
    assert access(identity) == Access({"d1": []}, [])
    assert revoked(identity) == {authority.parse_certificate(old.pem).serial_number}
    request = csr()
    with pytest.raises(RefusedError):
        identity.renew(old.pem, request, proof(old.key, request))
    assert identity.renew(new.pem, request, proof(new.key, request))


def test_a_device_is_renamed_by_another_certificate(identity: Identity) -> None:
    """All of it, or nothing: a block that fails leaves the old name as it was."""
    identity.enroll("d1", "b", WHERE)
    identity.enroll("d3", "b", WHERE)
    with pytest.raises(RuntimeError), identity.enrolling("d2", "b", WHERE, instead_of="d1"):
        raise RuntimeError
    assert access(identity) == Access({"d1": [], "d3": []}, [])
    for old, new, code in (("d1", "d3", "already-enrolled"), ("no", "d2", "no-such-device")):
        with (
            pytest.raises(InputError) as caught,
            identity.enrolling(new, "b", WHERE, instead_of=old),
        ):
            pass
        assert caught.value.code == code
    with identity.enrolling("d2", "b", WHERE, groups=["g"], instead_of="d1") as config:
        assert authority.common_name(certificate_of(config)) == "d2"
    assert access(identity) == Access({"d2": ["g"], "d3": []}, ["d1"])


def test_a_revocation_that_broke_off_before_the_list_is_carried_out_later(
    identity: Identity,
) -> None:
    """The registry knew of it: whoever looks after the files next writes the list."""
    identity.enroll("d1", "b", WHERE)
    identity.revoke("d1", listed=False)
    assert revoked(identity) == set()
    assert identity.own.maintain() == ["crl", "broker"]
    assert len(revoked(identity)) == 1
    assert identity.own.maintain() == []


@pytest.mark.parametrize("name", ["broker", "controller"])
@pytest.mark.parametrize("damage", [b"", b"noise", None])
def test_a_key_beside_the_certificate_of_another_is_made_anew(
    identity: Identity, name: str, damage: bytes | None
) -> None:
    """The power went between the two: a broker that starts would find no pair."""
    key = identity.folder / f"{name}.key.pem"
    key.write_bytes(authority.key_pem(authority.new_key()) if damage is None else damage)
    assert identity.own.mend() == [name]
    pair = serialization.load_pem_private_key(key.read_bytes(), None)
    certificate = authority.parse_certificate((identity.folder / f"{name}.pem").read_bytes())
    assert pair.public_key() == certificate.public_key()
    assert identity.own.mend() == []


def test_files_are_replaced_whole(identity: Identity) -> None:
    """No temporary file is left beside them."""
    identity.enroll("d1", "b", WHERE)
    identity.revoke("d1")
    assert not [path for path in identity.folder.iterdir() if path.suffix == ".tmp"]


def test_the_brokers_files_are_renewed_while_they_are_valid(
    identity: Identity, clock: Clock
) -> None:
    """The list and the broker's certificate at half of the list's life; hosts are kept."""
    assert identity.own.maintain() == []
    before = authority.parse_certificate((identity.folder / "broker.pem").read_bytes())
    clock.now += 250 * DAY
    identity.enroll("d1", "b", WHERE)
    identity.revoke("d1")
    assert identity.own.maintain() == ["crl", "broker"], "the broker may have a list of day 0"
    clock.now += 190 * DAY
    identity.own.write_revocations()
    assert identity.own.maintain() == []
    clock.now += 110 * DAY
    assert identity.own.maintain() == ["crl", "broker", "controller"]
    after = authority.parse_certificate((identity.folder / "broker.pem").read_bytes())
    assert authority.hosts_of(after) == authority.hosts_of(before) == ["localhost", "127.0.0.1"]
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert identity.own.maintain() == []
