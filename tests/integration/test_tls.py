"""TLS and mutual TLS on the gRPC port, with certificates that openssl signed."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import bertopic_client
import pytest
import tritonclient.grpc as triton
from bertopic_client import ConnectionFailed, TopicClient
from bertopic_server import Address
from bertopic_server._exceptions import BadCertificate
from bertopic_server._tls import Tls
from bertopic_server._triton import find_triton
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl: apt-get install openssl")
COMMAND = str(Path(sys.executable).with_name("bertopic-inference"))


class Pair(NamedTuple):
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def authority(folder: Path, name: str) -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", pair.key)
    openssl("req", "-x509", *key, "-out", pair.certificate, "-days", "2", "-subj", f"/CN={name}")
    return pair


def signed(folder: Path, name: str, by: Pair) -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", pair.key)
    openssl("req", *key, "-out", request, "-subj", f"/CN={name}")
    signer = ("-CA", by.certificate, "-CAkey", by.key, "-CAcreateserial")
    openssl("x509", "-req", "-in", request, *signer, "-extfile", extensions, "-out", pair.certificate, "-days", "2")
    return pair


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """An authority `ours` that signed `server` and `client`, and a `foreign` one that signed `stranger`."""
    folder = tmp_path_factory.mktemp("certificates")
    ours, foreign = authority(folder, "ours"), authority(folder, "foreign")
    return {
        "ours": ours,
        "foreign": foreign,
        "server": signed(folder, "server", ours),
        "client": signed(folder, "client", ours),
        "stranger": signed(folder, "stranger", foreign),
    }


def tls(pairs: dict[str, Pair], mutual: bool) -> Tls:
    return Tls(*pairs["server"], pairs["ours"].certificate if mutual else None)


def connect(port: int, pairs: dict[str, Pair], root: str, own: str | None = None) -> triton.InferenceServerClient:
    """A client that trusts the authority `root` and shows the certificate of `own`."""
    return triton.InferenceServerClient(
        f"127.0.0.1:{port}",
        ssl=True,
        root_certificates=str(pairs[root].certificate),
        private_key=str(pairs[own].key) if own else None,
        certificate_chain=str(pairs[own].certificate) if own else None,
    )


def is_live(client: triton.InferenceServerClient) -> bool:
    with client:
        try:
            return bool(client.is_server_live(client_timeout=5))
        except InferenceServerException:
            return False


class Bare(NamedTuple):
    """A tritonserver without models: all that a handshake needs."""

    port: int
    mutual: bool


@pytest.fixture(scope="module", params=[False, True], ids=["one-way", "mutual"])
def bare(
    request: pytest.FixtureRequest, pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bare]:
    triton_server = find_triton()
    port = Address.on_free_ports().grpc_port
    options = [
        f"--model-repository={tmp_path_factory.mktemp('empty')}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        *tls(pairs, request.param).arguments,
    ]
    with subprocess.Popen(
        [triton_server.binary, *options],
        env=triton_server.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not is_live(connect(port, pairs, "ours", "client")):
                assert process.poll() is None
                assert time.monotonic() < deadline, "no handshake succeeds"
            yield Bare(port, request.param)
        finally:
            process.terminate()


def test_a_certificate_of_another_authority_is_refused_by_the_client(bare: Bare, pairs: dict[str, Pair]) -> None:
    assert not is_live(connect(bare.port, pairs, "foreign", "client"))


def test_plaintext_is_refused(bare: Bare) -> None:
    assert not is_live(triton.InferenceServerClient(f"127.0.0.1:{bare.port}"))
    with TopicClient(f"grpc://127.0.0.1:{bare.port}", retries=0) as client, pytest.raises(ConnectionFailed):
        client.predict(["text"])


@pytest.mark.parametrize("own", [None, "stranger"], ids=["no certificate", "certificate of another authority"])
def test_mutual_tls_lets_in_only_whom_it_knows(bare: Bare, pairs: dict[str, Pair], own: str | None) -> None:
    assert is_live(connect(bare.port, pairs, "ours", own)) is not bare.mutual


@pytest.mark.parametrize(
    ("certificate", "key", "client_ca", "message"),
    [
        pytest.param("server.crt", "client.key", None, "server.crt.*client.key.*do not work together", id="not a pair"),
        pytest.param("server.key", "server.crt", None, "do not work together", id="mixed up"),
        pytest.param("nothing.crt", "server.key", None, "cannot read .*nothing.crt", id="missing"),
        pytest.param("server.crt", "server.key", "server.key", "server.key holds no certificate", id="a key as CA"),
        pytest.param("server.crt", "server.key", "", "cannot read", id="a folder as CA"),
    ],
)
def test_files_that_cannot_work_are_named(
    pairs: dict[str, Pair], certificate: str, key: str, client_ca: str | None, message: str
) -> None:
    folder = pairs["ours"].key.parent
    with pytest.raises(BadCertificate, match=message):
        Tls(folder / certificate, folder / key, None if client_ca is None else folder / client_ca)


def test_an_encrypted_key_is_refused_without_asking(pairs: dict[str, Pair], tmp_path: Path) -> None:
    key = tmp_path / "encrypted.key"
    openssl("ec", "-in", pairs["server"].key, "-aes256", "-passout", "pass:secret", "-out", key)
    with pytest.raises(BadCertificate, match="not encrypted"):
        Tls(pairs["server"].certificate, key)


@pytest.fixture(scope="module")
def served(repository: Path, pairs: dict[str, Pair]) -> Iterator[str]:
    """The URL of `bertopic-inference serve` with mutual TLS."""
    address = Address.on_free_ports()
    ports = {"http": address.http_port, "grpc": address.grpc_port, "metrics": address.metrics_port}
    certificate, key = pairs["server"]
    files = {"certificate": certificate, "key": key, "client-ca": pairs["ours"].certificate}
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    options += [f"--tls-{name}={file}" for name, file in files.items()]
    with subprocess.Popen([COMMAND, "serve", repository, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = ""
            while "curl" not in printed:
                line = process.stdout.readline()
                assert line, f"serve ended: {printed}"
                printed += line
            (url,) = re.findall(r"gRPC +(grpcs://\S+)", printed)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def test_a_known_client_is_answered(served: str, pairs: dict[str, Pair]) -> None:
    shown = bertopic_client.Tls(pairs["ours"].certificate, *pairs["client"])
    with TopicClient(served, tls=shown) as client:
        assert len(client.predict(["How do I sort a list?"])) == 1


def test_the_command_line_is_answered(served: str, pairs: dict[str, Pair]) -> None:
    certificate, key = pairs["client"]
    shown = ["--ca", pairs["ours"].certificate, "--certificate", certificate, "--key", key]
    command = [COMMAND, "predict", "How do I sort a list?", "--url", served]
    done = subprocess.run([*command, *shown], capture_output=True, text=True, check=True)
    assert "How do I sort a list?" in done.stdout
    done = subprocess.run([*command, *shown[:-2]], capture_output=True, text=True)
    assert done.returncode == 1
    assert "certificate and key go together" in done.stderr


@pytest.mark.parametrize(
    ("root", "own"),
    [
        pytest.param("foreign", "client", id="trusts another authority"),
        pytest.param("ours", None, id="shows no certificate"),
        pytest.param("ours", "stranger", id="shows one of another authority"),
    ],
)
def test_any_other_client_is_not(served: str, pairs: dict[str, Pair], root: str, own: str | None) -> None:
    shown = bertopic_client.Tls(pairs[root].certificate, *(pairs[own] if own else ()))
    with TopicClient(served, tls=shown, retries=0) as client, pytest.raises(ConnectionFailed):
        client.predict(["How do I sort a list?"])


@pytest.mark.parametrize("given", [["certificate"], ["key"], ["client-ca"], ["key", "client-ca"]], ids="+".join)
def test_flags_that_lack_their_others_are_refused(repository: Path, pairs: dict[str, Pair], given: list[str]) -> None:
    options = [f"--tls-{name}={pairs['server'].certificate}" for name in given]
    done = subprocess.run([COMMAND, "serve", repository, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "go together" in done.stderr
