"""When a broker counts as started."""

from __future__ import annotations

import socket
import subprocess
import threading

from fleet.broker.run import _wait_until_listening


def test_it_is_started_when_it_serves_and_not_when_a_port_of_it_is_open() -> None:
    """Mosquitto opens its listeners one after the other, and then serves all of them."""
    returned = threading.Event()
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        subprocess.Popen(["sleep", "600"]) as program,
    ):
        host, port = first.getsockname()

        def wait() -> None:
            _wait_until_listening(program, host, port)
            returned.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        with first.accept()[0] as probe:
            assert probe.recv(1) == b"", "the probe says nothing"
            assert not returned.wait(0.5)
        assert returned.wait(60)
        waiting.join()
        program.kill()
