"""Metrics for Prometheus, on loopback, on request.

Text exposition format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agent.telemetry.recorder import Totals
from contracts.errors import InputError
from contracts.histogram import Histogram


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _histogram(name: str, slot: str, histogram: Histogram) -> list[str]:
    lines = []
    seen = 0
    for index in sorted(map(int, histogram.counts)):
        seen += histogram.counts[str(index)]
        upper = histogram.upper(index) / 1e6
        lines.append(f'{name}_bucket{{slot="{slot}",le="{upper:.9g}"}} {seen}')
    lines.append(f'{name}_bucket{{slot="{slot}",le="+Inf"}} {seen}')
    lines.append(f'{name}_sum{{slot="{slot}"}} {histogram.total / 1e6:.9g}')
    lines.append(f'{name}_count{{slot="{slot}"}} {seen}')
    return lines


_COUNTERS = (
    ("requests", "Requests that were worked on"),
    ("errors", "Requests that failed"),
    ("busy", "Requests refused for a full queue"),
    ("unknown", "Answers below the out-of-scope threshold"),
    ("tokens", "Tokens generated"),
)


def render(totals: dict[str, Totals], gauges: dict[str, float]) -> str:
    """All metrics.

    Args:
        totals: counts since the start, by slot.
        gauges: by name with unit, as in telemetry.
    """
    lines: list[str] = []
    for field, text in _COUNTERS:
        name = f"shoal_{field}_total"
        lines += [f"# HELP {name} {text}.", f"# TYPE {name} counter"]
        lines += [
            f'{name}{{slot="{_escape(slot)}"}} {getattr(row, field)}'
            for slot, row in sorted(totals.items())
        ]
    name = "shoal_labels_total"
    lines += [f"# HELP {name} Answers by label.", f"# TYPE {name} counter"]
    for slot, row in sorted(totals.items()):
        lines += [
            f'{name}{{slot="{_escape(slot)}",label="{_escape(label)}"}} {count}'
            for label, count in sorted(row.labels.items())
        ]
    name = "shoal_latency_seconds"
    lines += [f"# HELP {name} Front end and model.", f"# TYPE {name} histogram"]
    for slot, row in sorted(totals.items()):
        lines += _histogram(name, _escape(slot), row.latency_us)
    for gauge, value in sorted(gauges.items()):
        name = f"shoal_{gauge}"
        lines += [f"# HELP {name} Measured now.", f"# TYPE {name} gauge", f"{name} {value:.9g}"]
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Serves ``/metrics`` on 127.0.0.1.

    Args:
        port: 0 takes a free one.
        text: makes the metrics.

    Raises:
        InputError: ``port-taken``.
    """

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                """The metrics."""
                if self.path.split("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Scrapes are not news."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise InputError(
                "port-taken", f"prometheus_port {port} cannot be used: {error.strerror}"
            ) from None
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.5,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)
