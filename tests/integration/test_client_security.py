"""Clients of a server that asks for certificates and tokens."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bertopic_client import AccessDenied, AsyncTopicClient, ConnectionFailed, Tls, TopicClient
from bertopic_server import Address, TritonServer
from bertopic_server import Tls as ServerTls

TOKEN = "Bearer s3cret"
# Triton wants this before the name that it is told to check.
HEADERS = {"Authorization": TOKEN, "Triton-Grpc-Protocol-Authorization": TOKEN}


class Secured(NamedTuple):
    grpc_url: str
    https_url: str
    tls: Tls
    """what a client needs to be let in"""


class StrictServer(TritonServer):
    """Triton which answers inferences with a token only."""

    def _tritonserver(self, triton: Any) -> list[str]:
        return [
            *super()._tritonserver(triton),
            f"--grpc-restricted-protocol=inference:authorization={TOKEN}",
            f"--http-restricted-api=inference:authorization={TOKEN}",
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a server's and a client's certificate by it."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=Test authority", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ("x509", "-req", "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(*sign, "-in", f"{name}.csr", "-extfile", "extensions", "-out", f"{name}.pem")
    return folder


@pytest.fixture(scope="module")
def secured(repository: Path, folder: Path) -> Iterator[Secured]:
    own = ServerTls(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    server = StrictServer(repository, Address.on_free_ports(), tls=own)
    tls = Tls(ca=folder / "ca.pem", certificate=folder / "client.pem", key=folder / "client.key")
    with server, Proxy(folder, server.address.http_port) as port:
        grpc_url = server.address.grpc_url.replace("grpc://", "grpcs://")
        yield Secured(grpc_url, f"https://127.0.0.1:{port}", tls)


class Proxy:
    """Ends mutual TLS before Triton's HTTP port; gives its own port."""

    def __init__(self, folder: Path, port: int) -> None:
        self._behind = port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> int:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        return int(server.sockets[0].getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self._behind)
        await asyncio.gather(self._copy(reader, requests), self._copy(answers, writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        finally:
            target.close()


@pytest.fixture(params=["grpcs", "https"])
def url(request: pytest.FixtureRequest, secured: Secured) -> str:
    return secured.grpc_url if request.param == "grpcs" else secured.https_url


@pytest.fixture(params=["sync", "async"])
def predict(request: pytest.FixtureRequest, trained: Any) -> Any:
    rows = trained.embeddings[:3]

    async def later(url: str, **options: Any) -> Any:
        async with AsyncTopicClient(url, retries=0, **options) as client:
            return await client.predict(rows)

    def sync(url: str, **options: Any) -> Any:
        with TopicClient(url, retries=0, **options) as client:
            return client.predict(rows)

    return sync if request.param == "sync" else lambda url, **options: asyncio.run(later(url, **options))


def test_certificates_and_token_let_in(predict: Any, url: str, secured: Secured, server: Any) -> None:
    assert list(predict(url, tls=secured.tls, headers=HEADERS)) == list(predict(server.grpc_url))


@pytest.mark.parametrize("headers", [None, dict.fromkeys(HEADERS, "Bearer wrong")], ids=["no token", "wrong token"])
def test_without_its_token_a_client_is_denied(predict: Any, url: str, secured: Secured, headers: Any) -> None:
    with pytest.raises(AccessDenied, match="restricted") as denied:
        predict(url, tls=secured.tls, headers=headers)
    assert denied.value.attempts == 1
    assert "s3cret" not in str(denied.value)


@pytest.mark.parametrize("given", ["nothing", "ca only", "ca of somebody else"])
def test_without_certificates_there_is_no_connection(
    predict: Any, url: str, secured: Secured, folder: Path, given: str
) -> None:
    tls = {"nothing": None, "ca only": Tls(ca=secured.tls.ca), "ca of somebody else": Tls(ca=folder / "client.pem")}
    with pytest.raises(ConnectionFailed):
        predict(url, tls=tls[given], headers=HEADERS)
