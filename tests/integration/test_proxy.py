"""docker/proxy/nginx.conf as it stands, with other ports and shorter waits, in front of a real server."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tritonclient.grpc as triton
from bertopic_client import AccessDenied, Tls, TopicClient
from bertopic_server import Address
from tritonclient.utils import InferenceServerException

CONFIGURATION = Path(__file__).parents[2] / "docker" / "proxy" / "nginx.conf"
# Debian keeps it where only root looks.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
TOKEN = secrets.token_hex(32)
TITLE = "How do I sort a list?"
COMMAND = Path(sys.executable).with_name("bertopic-inference")
TEXT = {
    "inputs": [{"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": [TITLE]}],
    "outputs": [{"name": "OUT"}],
}
INFER = "/v2/models/BERTopic-text/infer"

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl: apt-get install openssl"),
]


class Proxy(NamedTuple):
    port: int
    trusted: ssl.SSLContext
    certificate: Path
    log: Path

    def ask(self, method: str, path: str, body: Any = None, token: str | None = TOKEN, **headers: str) -> Any:
        """One request; its status and its answer's JSON."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.trusted)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        return response.status, json.loads(content) if content else None

    def connect(self) -> ssl.SSLSocket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return self.trusted.wrap_socket(connection, server_hostname="127.0.0.1")

    def is_up(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def grpc(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(f"127.0.0.1:{self.port}", ssl=True, root_certificates=str(self.certificate))


def adapted(configuration: str, port: int, server: Address) -> str:
    """The configuration, listening and connecting where this test does, and waiting for less long."""
    ports = {"8000": server.http_port, "8001": server.grpc_port, "8002": server.metrics_port}
    for default, actual in ports.items():
        assert f"server 127.0.0.1:{default};" in configuration
        configuration = configuration.replace(f"server 127.0.0.1:{default};", f"server 127.0.0.1:{actual};")
    assert "listen 8443 ssl" in configuration
    configuration = configuration.replace("listen 8443 ssl", f"listen 127.0.0.1:{port} ssl")
    shorter, changed = re.subn(r"(client_(?:header|body)_timeout) 10s;", r"\1 1s;", configuration)
    assert changed == 2
    return shorter


@contextmanager
def running(folder: Path, configuration: str, port: int) -> Iterator[Proxy]:
    """nginx with this configuration, a token and a certificate of its own."""
    (folder / "tls").mkdir()
    certificate = folder / "tls" / "server.crt"
    written = f"-keyout {folder / 'tls' / 'server.key'} -out {certificate} -days 2"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes {written} "
        "-subj /CN=proxy -addext subjectAltName=IP:127.0.0.1".split(),
        check=True,
        capture_output=True,
    )
    (folder / "tokens").write_text(f'"Bearer {TOKEN}" tests;\n')
    (folder / "nginx.conf").write_text(configuration)
    proxy = Proxy(port, ssl.create_default_context(cafile=str(certificate)), certificate, folder / "log")
    with proxy.log.open("w") as log:
        process = subprocess.Popen(
            [str(NGINX), "-p", folder, "-c", folder / "nginx.conf", "-g", "daemon off;"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 10
        while not proxy.is_up():
            assert process.poll() is None, proxy.log.read_text()
            assert time.monotonic() < deadline, proxy.log.read_text()
            time.sleep(0.02)
        yield proxy
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def proxy(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    port = Address.on_free_ports().http_port
    configuration = adapted(CONFIGURATION.read_text(), port, server.server.address)
    with running(tmp_path_factory.mktemp("proxy"), configuration, port) as started:
        yield started


def embeddings(rows: int) -> triton.InferInput:
    tensor = triton.InferInput("IN", [rows, 384], "FP32")
    tensor.set_data_from_numpy(np.full((rows, 384), 0.1, np.float32))
    return tensor


def test_the_right_token_is_answered(proxy: Proxy) -> None:
    status, answer = proxy.ask("POST", INFER, json.dumps(TEXT))
    assert status == 200
    assert len(answer["outputs"][0]["data"]) == 1
    assert proxy.ask("POST", "/v2/models/BERTopic-text/versions/1/infer", json.dumps(TEXT))[0] == 200


def test_the_right_token_is_answered_over_grpc(proxy: Proxy) -> None:
    with proxy.grpc() as client:
        answer = client.infer("BERTopic-inference", [embeddings(1024)], headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.as_numpy("OUT").shape == (1024, 1)


def test_the_command_line_passes(proxy: Proxy, tmp_path: Path) -> None:
    def predict(*headers: str) -> subprocess.CompletedProcess[str]:
        url = ["--url", f"grpcs://127.0.0.1:{proxy.port}", "--ca", proxy.certificate]
        options = [option for header in headers for option in ("--header", header)]
        return subprocess.run([COMMAND, "predict", TITLE, *url, *options], capture_output=True, text=True)

    secret = tmp_path / "token"
    secret.write_text(f"x-team: search\n\nAuthorization: Bearer {TOKEN}\n")
    answered = predict(f"@{secret}")
    assert answered.returncode == 0, answered.stderr
    assert TITLE in answered.stdout
    assert "denies access" in predict("authorization: Bearer guess").stderr
    assert "expected 'name: value'" in predict("Bearer").stderr
    assert "no-such-file: No such file" in predict("@no-such-file").stderr


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_the_python_client_passes(proxy: Proxy, scheme: str) -> None:
    def client(token: str) -> TopicClient:
        headers = {"Authorization": f"Bearer {token}"}
        return TopicClient(f"{scheme}://127.0.0.1:{proxy.port}", tls=Tls(ca=proxy.certificate), headers=headers)

    with client(TOKEN) as known:
        assert len(known.predict([f"text {i}" for i in range(200)])) == 200
        assert known.is_ready()
    with client("guess") as unknown, pytest.raises(AccessDenied):
        unknown.predict(["text"])


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param(TOKEN[:-1], id="too short"),
        pytest.param(TOKEN + "0", id="too long"),
        pytest.param(f"{TOKEN} {TOKEN}", id="twice"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", INFER), ("GET", "/v2"), ("GET", "/v2/models/BERTopic-text")])
def test_any_other_token_is_refused(proxy: Proxy, method: str, path: str, token: str | None) -> None:
    status, answer = proxy.ask(method, path, token=token)
    assert status == 401
    assert "Authorization: Bearer" in answer["error"]


@pytest.mark.parametrize("headers", [None, {"authorization": "Bearer wrong"}], ids=["no token", "wrong token"])
def test_any_other_token_is_refused_over_grpc(proxy: Proxy, headers: dict[str, str] | None) -> None:
    with proxy.grpc() as client, pytest.raises(InferenceServerException) as refusal:
        client.infer("BERTopic-inference", [embeddings(1)], headers=headers)
    assert refusal.value.status() == "StatusCode.UNAUTHENTICATED"


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/BERTopic-text",
        "/v2/models/BERTopic-text/config",
        "/v2/models/BERTopic-text/ready",
        "/v2/models/BERTopic-text/versions/1/ready",
    ],
)
def test_health_and_metadata_are_let_through(proxy: Proxy, path: str) -> None:
    assert proxy.ask("GET", path)[0] == 200
    assert proxy.ask("POST", path, "{}")[0] == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/BERTopic-text/load"),
        ("POST", "/v2/repository/models/BERTopic-text/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/region/x/register"),
        ("GET", "/v2/cudasharedmemory/status"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/logging"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/models/BERTopic-text/trace/setting"),
        ("GET", "/v2/models/BERTopic-text/stats"),
        ("POST", "/v2/models/BERTopic-umap/infer"),
        ("POST", "/v2/models/BERTopic-text/generate"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("POST", "/v2/%72epository/index"),
        ("POST", "/v2//repository/index"),
        ("POST", "/v2/models/BERTopic-text/infer/../../../repository/index"),
        ("POST", "/v2/models/x%2Frepository-text/infer"),
    ],
)
def test_everything_else_is_not_there(proxy: Proxy, method: str, path: str) -> None:
    assert proxy.ask(method, path, "{}" if method == "POST" else None)[0] == 404


@pytest.mark.parametrize("call", ["get_model_repository_index", "get_log_settings", "get_system_shared_memory_status"])
def test_everything_else_is_not_there_over_grpc(proxy: Proxy, call: str) -> None:
    with proxy.grpc() as client, pytest.raises(InferenceServerException) as refusal:
        getattr(client, call)(headers={"authorization": f"Bearer {TOKEN}"})
    assert refusal.value.status() == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_too_large_is_refused(proxy: Proxy, chunked: bool) -> None:
    body = b"x" * 1_700_000
    status, answer = proxy.ask("POST", INFER, iter([body]) if chunked else body)
    assert status == 413
    assert "fewer rows" in answer["error"]


def test_a_message_too_large_is_refused_over_grpc(proxy: Proxy) -> None:
    with proxy.grpc() as client, pytest.raises(InferenceServerException, match="413"):
        client.infer("BERTopic-inference", [embeddings(1200)], headers={"authorization": f"Bearer {TOKEN}"})


def test_compressed_requests_are_refused(proxy: Proxy) -> None:
    assert proxy.ask("POST", INFER, b"\x1f\x8b", **{"Content-Encoding": "gzip"})[0] == 415
    with proxy.grpc() as client, pytest.raises(InferenceServerException, match="415"):
        client.infer(
            "BERTopic-inference",
            [embeddings(1)],
            headers={"authorization": f"Bearer {TOKEN}"},
            compression_algorithm="gzip",
        )


@pytest.mark.parametrize("whole_header", [False, True], ids=["header", "body"])
def test_a_slow_sender_is_cut_off(proxy: Proxy, whole_header: bool) -> None:
    header = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n"
    with proxy.connect() as slow:
        slow.sendall(header.encode() + (b"\r\n{" if whole_header else b""))
        assert proxy.ask("POST", INFER, json.dumps(TEXT))[0] == 200
        started = time.monotonic()
        assert slow.recv(1000)[:12] in (b"", b"HTTP/1.1 408")
        assert time.monotonic() - started < 8


def test_who_sends_too_often_is_told_so(server: Any, tmp_path: Path) -> None:
    port = Address.on_free_ports().http_port
    configuration = adapted(CONFIGURATION.read_text(), port, server.server.address)
    slower, changed = re.subn(r"rate=500r/s|burst=1000", lambda found: f"{found[0].split('=')[0]}=3", configuration)
    assert changed == 2
    with running(tmp_path, slower.replace("rate=3;", "rate=1r/m;"), port) as proxy:
        statuses = [proxy.ask("GET", "/v2")[0] for _ in range(6)]
    assert statuses == [200, 200, 200, 200, 429, 429]


def test_plaintext_is_refused(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as plain:
        plain.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 400 " in plain.recv(1000)


def test_tokens_stay_out_of_the_log(proxy: Proxy) -> None:
    proxy.ask("GET", "/v2")
    logged = proxy.log.read_text()
    assert 'client=tests "GET /v2" 200' in logged
    assert TOKEN not in logged
