"""One address: what follows from it, and what is refused."""

from __future__ import annotations

import re
import socket
import ssl
import stat
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from contracts.config import MqttConfig
from contracts.errors import InputError
from fleet import address
from fleet.broker.mosquitto import EVERYWHERE
from fleet.cli.app import app
from fleet.config import ApiConfig, BrokerConfig, FleetConfig, check
from fleet.folder import CONFIG, Fleet
from fleet.identity.authority import hosts_of, parse_certificate

ROOT = Path(__file__).parents[2]


def init(folder: Path, *arguments: str) -> Fleet:
    """A fleet, made by the command."""
    done = CliRunner().invoke(app, ["fleet", "init", str(folder / "home"), *arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    return Fleet.open(folder / "home")


def served_names(fleet: Fleet, name: str) -> set[str]:
    """The names in a certificate."""
    return set(hosts_of(parse_certificate((fleet.folder / "ca" / f"{name}.pem").read_bytes())))


@pytest.mark.parametrize(
    ("host", "written", "url"),
    [
        ("fleet.example.org", "fleet.example.org", "https://fleet.example.org:8443"),
        ("Fleet.Example.ORG.", "fleet.example.org", "https://fleet.example.org:8443"),
        ("192.0.2.7", "192.0.2.7", "https://192.0.2.7:8443"),
        ("2001:db8::7", "2001:db8::7", "https://[2001:db8::7]:8443"),
        ("[2001:DB8:0::7]", "2001:db8::7", "https://[2001:db8::7]:8443"),
    ],
)
def test_everything_that_a_device_is_told_follows_from_the_one_address(
    tmp_path: Path, host: str, written: str, url: str
) -> None:
    """Broker, repository, renewal; and both certificates name it."""
    fleet = init(tmp_path, "--host", host)
    assert fleet.config.mutual_tls
    config, _ = fleet.enroll("kitchen", "raspberry-pi-5")
    assert (config.mqtt.host, config.mqtt.port) == (written, 8883)
    assert config.mqtt.tls is not None and config.mqtt.tls.key is not None
    assert config.repository_url == f"{url}/repo/"
    assert config.renewal_url == f"{url}/v1/certificates/renew"
    assert fleet.api_url == url
    for name in ("broker", "api"):
        assert {written, "localhost", "127.0.0.1", "::1"} <= served_names(fleet, name)
    assert fleet.api_files is not None
    assert stat.S_IMODE(fleet.api_files[1].stat().st_mode) == 0o600
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*fleet.api_files)
    text = (fleet.folder / "broker/mosquitto.conf").read_text()
    assert "listener 8883\n" in text, "IPv4 and IPv6 alike"
    assert "listener 8884 127.0.0.1\n" in text
    assert "127.0.0.1" not in (fleet.folder / "devices/kitchen/agent.yaml").read_text()


def test_without_an_address_a_fleet_is_of_this_machine_alone(tmp_path: Path) -> None:
    """As in a rehearsal: nothing listens beyond it, and nothing is asked for."""
    fleet = init(tmp_path)
    config, _ = fleet.enroll("kitchen", "raspberry-pi-5")
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.tls) == ("127.0.0.1", 1883, None)
    assert fleet.api_url == "http://127.0.0.1:8080"
    assert fleet.api_files is None
    assert address.api_host(fleet.config) == "127.0.0.1"
    assert "listener 1883 127.0.0.1" in (fleet.folder / "broker/mosquitto.conf").read_text()


def test_an_address_of_loopback_is_this_machine_too(tmp_path: Path) -> None:
    """``--tls`` alone gives certificates, and no port to the outside."""
    fleet = init(tmp_path, "--host", "localhost", "--host", "pi.local", "--tls")
    assert fleet.config.host == ""
    assert "pi.local" in served_names(fleet, "broker")
    assert address.listener(fleet.config) == address.Listener(1883, "127.0.0.1")


def test_ports_and_parts_elsewhere_are_options(tmp_path: Path) -> None:
    """A broker on another machine; another name for people; more names for certificates."""
    fleet = init(
        tmp_path,
        *("--host", "fleet.example.org", "--host", "10.0.0.2", "--mqtt-host", "mqtt.example.org"),
        *("--api-port", "9443", "--api-url", "https://example.org/shoal/"),
    )
    config, _ = fleet.enroll("kitchen", "raspberry-pi-5")
    assert (config.mqtt.host, config.mqtt.port) == ("mqtt.example.org", 8883)
    assert config.repository_url == "https://example.org/shoal/repo/"
    assert address.listener(fleet.config) == address.Listener(8883, EVERYWHERE)
    names = {"fleet.example.org", "10.0.0.2", "mqtt.example.org"}
    assert names <= served_names(fleet, "broker")


def test_another_address_needs_one_line(tmp_path: Path) -> None:
    """It is changed in fleet.yaml; the next start makes certificates and configuration anew."""
    fleet = init(tmp_path, "--host", "old.example.org")
    path = fleet.folder / CONFIG
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "host": "192.0.2.9"}))
    fleet = Fleet.open(fleet.folder)
    fleet.prepare()
    for name in ("broker", "api"):
        assert "192.0.2.9" in served_names(fleet, name)
    assert fleet.enroll("kitchen", "raspberry-pi-5")[0].mqtt.host == "192.0.2.9"
    assert fleet.prepare() == [], "nothing is to be done twice"


def test_a_moved_folder_is_whole_after_the_next_start(tmp_path: Path) -> None:
    """What mosquitto reads names its files by their place."""
    fleet = init(tmp_path, "--host", "fleet.example.org")
    (tmp_path / "home").rename(tmp_path / "moved")
    moved = Fleet.open(tmp_path / "moved")
    assert any("restarted" in one for one in moved.prepare())
    text = (moved.folder / "broker/mosquitto.conf").read_text()
    assert str(fleet.folder) not in text
    named = [one.split(" ", 1)[1] for one in text.splitlines() if " /" in one]
    paths = [Path(one) for one in named if "plugin" not in one and not one.endswith(".so")]
    missing = [one for one in paths if not one.exists()]
    assert missing == [moved.folder / "broker/mosquitto.pid"], "which the broker writes"


@pytest.mark.parametrize("name", ["broker", "api"])
def test_a_pair_that_a_power_cut_parted_is_made_anew(tmp_path: Path, name: str) -> None:
    """A key of one certificate beside another."""
    fleet = init(tmp_path, "--host", "fleet.example.org")
    (fleet.folder / f"ca/{name}.key.pem").write_bytes(
        (fleet.folder / "ca/controller.key.pem").read_bytes()
    )
    fleet.prepare()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(fleet.folder / f"ca/{name}.pem", fleet.folder / f"ca/{name}.key.pem")


def test_the_certificate_of_the_api_is_renewed_in_time(tmp_path: Path) -> None:
    """Like the broker's, under the same names."""
    fleet = init(tmp_path, "--host", "fleet.example.org")
    before = parse_certificate((fleet.folder / "ca/api.pem").read_bytes())
    late = before.not_valid_after_utc.timestamp() - 30 * 24 * 3600
    identity = fleet.open_identity()
    identity.own._clock = lambda: late
    assert "api" in identity.own.maintain()
    after = parse_certificate((fleet.folder / "ca/api.pem").read_bytes())
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert hosts_of(after) == hosts_of(before)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "fe80::1%eth0", "224.0.0.1", "a b", "host:8883", "https://x", "-x.org",
     "x..org", "1.2.3", "300.1.2.3", "x" * 64, "a." * 200, "*.example.org", "é.org"],
)  # fmt: skip
def test_what_devices_cannot_reach_is_no_address(tmp_path: Path, host: str) -> None:
    """One line, and nothing is made."""
    done = CliRunner().invoke(app, ["fleet", "init", str(tmp_path / "home"), "--host", host])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "[bad-host]" in line
    assert list(tmp_path.iterdir()) == []


def test_an_address_beyond_this_machine_needs_certificates(tmp_path: Path) -> None:
    """Plain connections are for loopback alone."""
    done = CliRunner().invoke(
        app, ["fleet", "init", str(tmp_path / "h"), "--host", "10.0.0.1", "--no-tls"]
    )
    assert done.exit_code == 2
    assert "[tls-needed]" in done.stderr


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (FleetConfig("f", host="fleet.example.org"), "tls-needed"),
        (FleetConfig("f", api=ApiConfig(host="")), "tls-needed"),
        (FleetConfig("f", api=ApiConfig(host="10.0.0.1")), "tls-needed"),
        (FleetConfig("f", api=ApiConfig(certificate="x.pem")), "bad-config"),
        (FleetConfig("f", mqtt=MqttConfig(host="10.0.0.1")), "tls-needed"),
        (FleetConfig("f", broker=BrokerConfig(port=1883)), "bad-config"),
        (FleetConfig("f", api=ApiConfig(url="ftp://x")), "bad-config"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config: FleetConfig, code: str) -> None:
    """When the file is read, before anything is opened."""
    with pytest.raises(InputError) as caught:
        check(config)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("addresses", "default", "chosen"),
    [
        ({"lo": ["127.0.0.1", "::1"], "eth0": ["192.0.2.7", "fe80::1%eth0"]}, None, "192.0.2.7"),
        ({"eth0": ["2001:db8::7", "192.0.2.7"]}, None, "192.0.2.7"),
        ({"eth0": ["2001:db8::7"]}, None, "2001:db8::7"),
        ({"eth0": ["192.0.2.7"], "docker0": ["172.17.0.1"]}, "eth0", "192.0.2.7"),
        ({"eth0": ["192.0.2.7"], "wlan0": ["198.51.100.1"]}, None, None),
        ({"lo": ["127.0.0.1"], "eth0": ["169.254.1.1", "00:11:22:33:44:55"]}, "eth0", None),
        ({}, None, None),
    ],
)
def test_auto_is_the_address_that_others_reach(
    addresses: dict[str, list[str]], default: str | None, chosen: str | None
) -> None:
    """Where there are several and none leads to all else, a person has to say."""
    if chosen is None:
        with pytest.raises(InputError, match="--host auto"):
            address.choose(addresses, default)
    else:
        assert address.choose(addresses, default) == chosen


def test_a_port_that_is_taken_is_told_when_the_fleet_is_made(tmp_path: Path) -> None:
    """With the setting that moves it; making a fleet is not refused for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = CliRunner().invoke(
            app, ["fleet", "init", str(tmp_path / "home"), "--mqtt-port", str(port)]
        )
        assert done.exit_code == 0
        assert f"another program listens on port {port}" in done.stderr
        assert "set mqtt.port" in done.stderr


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")])
def test_an_address_of_this_machine_alone_is_the_one_that_is_used(
    tmp_path: Path, host: str, shown: str
) -> None:
    """On a machine without IPv4 there is no 127.0.0.1."""
    fleet = init(tmp_path, "--host", host)
    config, _ = fleet.enroll("kitchen", "raspberry-pi-5")
    assert (config.mqtt.host, config.mqtt.tls) == (host, None)
    assert fleet.config.mqtt.where == f"{shown}:1883"
    assert fleet.api_url == f"http://{shown}:8080"
    assert address.api_host(fleet.config) == host
    assert f"listener 1883 {host}" in (fleet.folder / "broker/mosquitto.conf").read_text()


def test_controllers_come_in_where_their_way_to_the_broker_leads(tmp_path: Path) -> None:
    """Of IPv6 too."""
    fleet = init(tmp_path, "--host", "2001:db8::7", "--mqtt-host", "::1")
    text = (fleet.folder / "broker/mosquitto.conf").read_text()
    assert "listener 8883\n" in text
    assert "listener 8884 ::1\n" in text


def test_addresses_are_told_in_brackets(tmp_path: Path) -> None:
    """So that they can be typed and opened as they are."""
    done = CliRunner().invoke(
        app, ["fleet", "init", str(tmp_path / "home"), "--host", "2001:db8::7"]
    )
    assert "reach it at [2001:db8::7]:8883 and https://[2001:db8::7]:8443" in done.stdout


def test_no_message_puts_a_bare_address_before_a_port() -> None:
    """Of IPv6 nobody could tell where the port begins."""
    bare = re.compile(r"(host|address)[a-z_.]*\}:\{")
    packages = [ROOT / name for name in ("agent", "contracts", "fleet", "model_builder")]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in packages
        for path in sorted(package.rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if bare.search(line)
    ]
    assert found == [
        'contracts/config.py: return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"'
    ]


def test_the_interface_that_leads_out_is_found_without_ipv4() -> None:
    """The default route that refuses, which every system without one has, is none."""
    nothing, rest = "0" * 32, "00000400 00000001 00000000"
    refuses = f"{nothing} 00 {nothing} 00 {nothing} ffffffff 00000001 00000000 00200200 lo\n"
    leads = f"{nothing} 00 {nothing} 00 fe80{'0' * 27}1 {rest} 00000003 wlan0\n"
    four = "eth0 00000000 0102000A 0003 0 0 0 00000000 0 0 0\n"
    header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    assert address.default_interface(header, refuses + leads) == "wlan0"
    assert address.default_interface(header + four, refuses + leads) == "eth0"
    assert address.default_interface(header, refuses) is None
    assert address.default_interface("", "") is None
