"""The metrics port, whatever state tritonserver is in."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from bertopic_server import PortInUse
from bertopic_server._operations import Metric, Operations
from bertopic_server._server import free_ports


@pytest.fixture
def troubles() -> dict[str, str]:
    return {}


@pytest.fixture
def triton() -> Iterator[str]:
    """Somebody else's metrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"nv_inference_count 3\n")

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["running", "down"])
def operations(request: pytest.FixtureRequest, triton: str, troubles: dict[str, str]) -> Iterator[tuple[str, str]]:
    """URL of the metrics port, and the state of Triton."""
    port, nobody = free_ports(2)
    url = triton if request.param == "running" else f"http://127.0.0.1:{nobody}/metrics"
    metrics = [Metric("bertopic_canary_up", "gauge", "Answers.", [({"model": 'a "b"'}, True)])]
    server = Operations("127.0.0.1", port, triton_metrics=url, metrics=lambda: metrics, troubles=lambda: troubles)
    yield f"http://127.0.0.1:{port}", request.param
    server.stop()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics(operations: tuple[str, str]) -> None:
    url, triton = operations
    status, text = get(f"{url}/metrics")
    assert status == 200
    assert ("nv_inference_count 3" in text) == (triton == "running")
    assert '# TYPE bertopic_canary_up gauge\nbertopic_canary_up{model="a \\"b\\""} 1\n' in text


def test_liveness_and_readiness(operations: tuple[str, str], troubles: dict[str, str]) -> None:
    url, _ = operations
    assert get(f"{url}/health/live")[0] == 200
    assert get(f"{url}/health/ready") == (200, json.dumps({"ready": True, "not_ready": {}}))
    troubles["A-umap"] = "its process 7 ended"
    status, body = get(f"{url}/health/ready")
    assert status == 503
    assert json.loads(body) == {"ready": False, "not_ready": {"A-umap": "its process 7 ended"}}
    assert get(f"{url}/health/live")[0] == 200


def test_anything_else(operations: tuple[str, str]) -> None:
    status, body = get(f"{operations[0]}/v2/health/ready")
    assert status == 404
    assert "/health/ready" in body


def test_a_large_count_keeps_its_digits() -> None:
    assert "total 123456789\n" in str(Metric("total", "counter", "Rows.", [({}, 123_456_789)]))


def test_a_taken_port_is_named(operations: tuple[str, str]) -> None:
    port = int(operations[0].rpartition(":")[2])
    with pytest.raises(PortInUse, match=str(port)):
        Operations("127.0.0.1", port, triton_metrics="", metrics=list, troubles=dict)
