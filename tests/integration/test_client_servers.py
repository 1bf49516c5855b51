"""Clients of several servers, of which one fails."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bertopic_client import AsyncTopicClient, NotReady, Timeout, TopicClient
from bertopic_server import TritonServer

MODEL = "BERTopic-inference"


@pytest.fixture(scope="module")
def other(repository: Path, server: Any) -> Iterator[TritonServer]:
    """A server that tests may kill; `restart` brings it back at the same address."""
    with TritonServer(repository, server.server.address.on_free_ports()) as running:
        yield running


def restart(server: TritonServer) -> None:
    server.stop()
    server.start()


def answered(server: TritonServer) -> int:
    return int(server.statistics(MODEL)["inference_count"])


class Load:
    """Predictions without a pause, until told to stop; what they gave and what went wrong."""

    def __init__(self, ask: Callable[[], Any], n_threads: int) -> None:
        self.answers: list[Any] = []
        self.errors: list[Exception] = []
        self._ask = ask
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(n_threads)]

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.answers.append(self._ask())
            except Exception as error:
                self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def answer_more(self, n: int = 100) -> None:
        target = len(self.answers) + n
        while len(self.answers) < target and not self.errors:
            time.sleep(0.01)


class OnOwnLoop:
    """An asyncio client as one that waits, of four calls at once."""

    def __init__(self, urls: list[str]) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncTopicClient(urls, timeout=60)

    def predict(self, rows: Any) -> Any:
        first, *_ = self._loop.run_until_complete(self._predict(rows))
        return first

    async def _predict(self, rows: Any) -> list[Any]:
        return await asyncio.gather(*[self._client.predict(rows) for _ in range(4)])

    def __enter__(self) -> OnOwnLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


def test_a_killed_server_is_left_out_and_taken_back_in(server: Any, other: TritonServer, trained: Any) -> None:
    rows = trained.embeddings[:8]
    grpc_urls, http_urls = [server.grpc_url, other.address.grpc_url], [server.http_url, other.address.http_url]
    for url in grpc_urls:
        with TopicClient(url) as client:
            expected = list(client.predict(rows))
    with ExitStack() as stack:
        clients = [
            stack.enter_context(TopicClient(grpc_urls, timeout=60)),
            stack.enter_context(TopicClient(http_urls, timeout=60)),
            stack.enter_context(OnOwnLoop([server.grpc_url, other.address.http_url])),
        ]
        # An event loop belongs to one thread.
        loads = [
            stack.enter_context(Load(partial(client.predict, rows), n_threads))
            for client, n_threads in zip(clients, (2, 2, 1), strict=True)
        ]
        before = answered(server.server), answered(other)
        for load in loads:
            load.answer_more()
        shares = answered(server.server) - before[0], answered(other) - before[1]
        assert min(shares) > 0.2 * sum(shares)

        os.kill(other.pid, signal.SIGKILL)
        for load in loads:
            load.answer_more()
        restart(other)
        deadline = time.monotonic() + 30
        while answered(other) < 1000 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert answered(other) >= 1000
    for load in loads:
        assert load.errors == []
        assert all(list(answer) == expected for answer in load.answers)


def test_a_hung_server_is_given_up_for_another(server: Any, other: TritonServer, trained: Any) -> None:
    rows = trained.embeddings[:2]
    with TopicClient([server.grpc_url, other.address.grpc_url], attempt_timeout=0.5, retries=5) as client:
        for _ in range(4):
            client.predict(rows)
        os.kill(other.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            for _ in range(50):
                client.predict(rows)
            # Each trial costs one attempt, and trials get rare.
            assert time.monotonic() - started < 10
            with TopicClient(other.address.grpc_url, timeout=0.5) as alone, pytest.raises(Timeout):
                alone.predict(rows)
        finally:
            os.kill(other.pid, signal.SIGCONT)


def test_ready_means_that_one_server_is(server: Any, closed_port: int) -> None:
    nobody = f"grpc://127.0.0.1:{closed_port}"
    with TopicClient([nobody, server.grpc_url]) as client:
        assert client.is_ready()
    with TopicClient([nobody, nobody]) as client:
        assert not client.is_ready()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_dead_model_is_not_ready_and_another_server_answers(server: Any, other: TritonServer) -> None:
    with TopicClient(server.grpc_url) as client:
        expected = client.topics()
    os.kill(stub(other, "BERTopic-topics"), signal.SIGKILL)
    for url in (other.address.grpc_url, other.address.http_url):
        with TopicClient(url, retries=0) as client, pytest.raises(NotReady, match="not healthy"):
            client.topics()
    with TopicClient([other.address.grpc_url, server.grpc_url]) as client:
        assert [client.topics() for _ in range(4)] == [expected] * 4
    # Asked to stop, Triton would wait half a minute for the dead.
    os.kill(other.pid, signal.SIGKILL)


def stub(server: TritonServer, model: str) -> int:
    """The process id of a python model."""
    children = [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if f"PPid:\t{server.pid}\n" in _read(process / "status") and f"/{model}/" in _read(process / "cmdline")
    ]
    [child] = children
    return child


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # the process has ended meanwhile
