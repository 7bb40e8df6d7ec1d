"""``shoal fleet serve``: runs the controller until it is told to stop."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from contracts.errors import InputError, UnavailableError
from fleet import address
from fleet.api.listening import listen
from fleet.broker.run import EmbeddedBroker, wait_until_connectable
from fleet.cli import noted
from fleet.cli.options import HERE, Folder
from fleet.cli.output import reported
from fleet.folder import Fleet
from fleet.logs import configure_logs

if TYPE_CHECKING:
    from fleet.api.server import Server


def check_level(log_level: str) -> None:
    """Refuses what is not a level."""
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("one of debug, info, warning, error")


def serve(
    folder: Folder = HERE,
    embedded_broker: Annotated[
        bool, typer.Option("--embedded-broker", help="Also run a broker, on loopback.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning, error.")] = "info",
) -> None:
    """Runs the controller: ingest, rollouts, repository, API. SIGTERM stops it in order."""
    with reported(as_json=False):
        check_level(log_level)
        configure_logs(log_level)
        fleet = Fleet.open(folder)
        if embedded_broker and fleet.config.shared_ingest:
            raise InputError(
                "not-shared",
                "shared_ingest: true needs mosquitto: the embedded broker ends when the last of "
                "several sharing processes is cut off; leave out --embedded-broker, or set "
                "shared_ingest: false in fleet.yaml",
            )
        with contextlib.ExitStack() as stack:
            # First the ports: who cannot have them must not touch database or broker.
            with noted.trying(fleet, "controller.start", fleet.config.fleet):
                sockets = listen(address.api_host(fleet.config), fleet.config.api.port)
            for one in sockets:
                stack.enter_context(one)
            if embedded_broker:
                _start_broker(fleet, stack)
            for todo in fleet.prepare():
                structlog.get_logger("serve").warning("to be done at the broker", todo=todo)
            run(fleet, sockets)


def _start_broker(fleet: Fleet, stack: contextlib.ExitStack) -> None:
    mqtt = fleet.config.mqtt
    try:
        # One that a killed controller left behind goes on serving the devices.
        wait_until_connectable(mqtt, 0.3)
    except UnavailableError:
        stack.enter_context(EmbeddedBroker(mqtt.port))


@contextlib.contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """SIGTERM and SIGINT end the server in order; a second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        server.handle_exit(number, frame)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        # Until the process ends a further signal changes nothing: the stop is under way.
        for number in before:
            signal.signal(number, signal.SIG_IGN)


def run(
    fleet: Fleet,
    sockets: list[socket.socket],
    started: Callable[[], None] = lambda: None,
) -> None:
    """Runs the controller and the API until a signal comes.

    Args:
        fleet: whose.
        sockets: that listen for the API.
        started: called once the API answers.
    """
    # Loading the web framework takes a while: only when it is needed.
    from fleet.api.app import create_app
    from fleet.api.server import Limits, Server, configure
    from fleet.controller import Controller

    controller = Controller(fleet)
    app = create_app(controller)
    if importlib.util.find_spec("fleet.dashboard") is not None:
        importlib.import_module("fleet.dashboard").mount(app, controller)
    api, files = fleet.config.api, fleet.api_files
    ca = fleet.folder / "ca" / "ca.pem" if fleet.config.mutual_tls else None
    config = configure(app, files=files, ca=ca, proxies=api.trusted_proxies)
    log = structlog.get_logger("serve")
    # What is loaded now stays for good: left out of full collections, which else stop every
    # thread for some 60 ms.
    gc.collect()
    gc.freeze()

    def read_again() -> None:
        """New connections get the certificate that was renewed."""
        if config.ssl is not None and files is not None:
            config.ssl.load_cert_chain(*files)

    controller.on_api_renewed = read_again
    controller.start()
    noted.begun(controller.store, "controller.start", fleet.config.fleet)
    try:
        log.info("controller started", url=fleet.api_url, fleet=fleet.config.fleet)
        limits = Limits(api.connections, api.connections_per_address)
        server = Server(config, started, limits, api.trusted_proxies)
        with _stopped_by_signals(server):
            server.run(sockets)
    finally:
        noted.begun(controller.store, "controller.stop", fleet.config.fleet)
        controller.stop()
        log.info("controller stopped")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve")(serve)
