"""The client on sockets where no Triton is."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from bertopic_client import ClientClosed, ConnectionFailed, InvalidInput, Timeout, TopicClient

SCHEMES = pytest.mark.parametrize("scheme", ["grpc", "http"])


@SCHEMES
def test_a_refused_connection_is_tried_again_and_says_so(scheme, closed_port):
    url = f"{scheme}://127.0.0.1:{closed_port}"
    with TopicClient(url, retries=1) as client, pytest.raises(ConnectionFailed) as failed:
        client.predict(["a"])
    assert failed.value.attempts == 2
    assert url in str(failed.value)
    assert "Tried 2 times" in str(failed.value)
    assert failed.value.__cause__ is not None


@SCHEMES
def test_silence_ends_at_the_timeout(scheme, silent_port):
    started = time.monotonic()
    with TopicClient(f"{scheme}://127.0.0.1:{silent_port}", timeout=0.3) as client, pytest.raises(Timeout) as late:
        client.predict(["a"])
    assert 0.2 < time.monotonic() - started < 3
    assert late.value.attempts == 1
    assert "0.3 s" in str(late.value)


@SCHEMES
def test_a_server_that_hangs_is_asked_again_after_the_attempts_timeout(scheme, silent_port):
    started = time.monotonic()
    settings = {"timeout": 20, "attempt_timeout": 0.2, "retries": 2}
    with TopicClient(f"{scheme}://127.0.0.1:{silent_port}", **settings) as client, pytest.raises(Timeout) as late:
        client.predict(["a"])
    assert late.value.attempts == 3
    assert 0.6 < time.monotonic() - started < 5


@SCHEMES
def test_closing_ends_the_retries_of_other_threads(scheme, closed_port):
    client = TopicClient(f"{scheme}://127.0.0.1:{closed_port}", retries=1000)
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(client.predict, ["a"])
        time.sleep(0.3)
        client.close()
        with pytest.raises(ClientClosed):
            asking.result(10)


@SCHEMES
def test_a_server_that_is_not_there_is_not_ready(scheme, closed_port):
    with TopicClient(f"{scheme}://127.0.0.1:{closed_port}") as client:
        assert client.is_ready() is False


@SCHEMES
def test_empty_and_invalid_inputs_need_no_server(scheme, closed_port):
    with TopicClient(f"{scheme}://127.0.0.1:{closed_port}") as client:
        assert len(client.predict([])) == 0
        with pytest.raises(InvalidInput):
            client.predict("one text")
        with pytest.raises(InvalidInput):
            client.embed([None])


@SCHEMES
def test_a_closed_client_says_so(scheme, closed_port):
    client = TopicClient(f"{scheme}://127.0.0.1:{closed_port}")
    client.close()
    client.close()
    for use in (client.is_ready, client.topics, lambda: client.predict([]), lambda: client.predict_stream([])):
        with pytest.raises(ClientClosed, match="is closed"):
            use()


def test_a_url_without_a_scheme():
    with pytest.raises(InvalidInput, match="grpc://localhost:8001"):
        TopicClient("localhost:8001")


def test_importing_the_client_loads_neither_protocol_nor_any_other_package_of_ours():
    heavy = (
        "grpc gevent aiohttp torch numba bertopic bertopic_engine bertopic_converters bertopic_server bertopic_embedder"
    )
    code = f"import sys, bertopic_client; print(*sys.modules.keys() & set({heavy!r}.split()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
