"""The metrics port: Triton's metrics and the watch's, liveness, and a readiness that sees dead models."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from ._exceptions import PortInUse
from ._loopback import open_url

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metric(NamedTuple):
    """One family in Prometheus' text format."""

    name: str
    kind: str
    help: str
    samples: Iterable[tuple[dict[str, str], float]]
    """labels and value"""

    def __str__(self) -> str:
        lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}"]
        for labels, value in self.samples:
            pairs = ",".join(f"{label}={json.dumps(text, ensure_ascii=False)}" for label, text in labels.items())
            lines.append(f"{self.name}{{{pairs}}} {value:.10g}" if pairs else f"{self.name} {value:.10g}")
        return "\n".join(lines) + "\n"


class Operations:
    """An HTTP server for those who watch over the service.

    Parameters
    ----------
    host, port : str, int
        Where to listen.
    triton_metrics : str
        URL of Triton's own metrics.
    metrics : callable
        Metrics to add to these.
    troubles : callable
        Why the service is not ready, by model; nothing if it is.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        triton_metrics: str,
        metrics: Callable[[], list[Metric]],
        troubles: Callable[[], dict[str, str]],
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Seconds that a silent connection may hold a thread.
            timeout = 30

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, _METRICS_TYPE, _triton(triton_metrics) + "".join(map(str, metrics())))
                elif path == "/health/live":
                    self._answer(200, "application/json", json.dumps({"live": True}))
                elif path == "/health/ready":
                    found = troubles()
                    self._answer(
                        503 if found else 200, "application/json", json.dumps({"ready": not found, "not_ready": found})
                    )
                else:
                    self._answer(404, "text/plain", "there are /metrics, /health/live and /health/ready\n")

            def _answer(self, status: int, kind: str, body: str) -> None:
                content = body.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: probes come every few seconds."""

        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            raise PortInUse(
                f"cannot listen on {host}:{port} ({error.strerror}). Stop what uses it, or give another port with "
                "--metrics-port."
            ) from error
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: whoever asked went away."""


def _triton(url: str) -> str:
    try:
        with open_url(url, timeout=5) as response:
            text: str = response.read().decode()
    except (OSError, HTTPException):
        return ""  # tritonserver is down, which the metrics that follow say
    return text
