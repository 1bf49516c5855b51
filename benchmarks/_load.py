"""HTTP load generators that take little of the machine they share with the server.

Keep-alive connections, each with one request in flight; requests are ready-made bytes.
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np


@dataclass(frozen=True)
class Measured:
    """What one run showed."""

    per_second: float
    p50_ms: float
    p99_ms: float


def post(url: str, body: bytes, **headers: str) -> bytes:
    """One HTTP/1.1 POST as bytes on the wire."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def closed_loop(url: str, requests: Sequence[bytes], concurrency: int, *, seconds: float, warm_up: float) -> Measured:
    """Send `requests` round and round for `warm_up` + `seconds`; count the answers of the latter.

    Raises
    ------
    RuntimeError
        An answer other than 200, with its body.
    """
    parts = urlsplit(url)
    selector = selectors.DefaultSelector()
    connections = []
    for _ in range(concurrency):
        connection = socket.create_connection((parts.hostname, parts.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        connections.append(connection)
    sent_at: dict[socket.socket, float] = {}
    received: dict[socket.socket, bytes] = dict.fromkeys(connections, b"")
    turn = 0
    started = time.perf_counter()
    for connection in connections:
        sent_at[connection] = time.perf_counter()
        connection.sendall(requests[turn % len(requests)])
        turn += 1
    latencies: list[float] = []
    begin, end = started + warm_up, started + warm_up + seconds
    now = started
    while now < end:
        for key, _ in selector.select():
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            data = received[connection] + connection.recv(1 << 16)
            if not _complete(data):
                received[connection] = data
                continue
            received[connection] = b""
            now = time.perf_counter()
            if now >= begin:
                latencies.append(now - sent_at[connection])
            sent_at[connection] = now
            connection.sendall(requests[turn % len(requests)])
            turn += 1
    for connection in connections:
        connection.close()
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return Measured(len(latencies) / (now - begin), float(p50), float(p99))


@dataclass
class Crowd:
    """What many clients met."""

    seconds: float
    answered: list[float] = field(default_factory=list)
    """seconds that each answered request took"""
    refused: Counter[str] = field(default_factory=Counter)
    """by what was said"""
    sent: int = 0
    longest_wait: float = 0.0
    """seconds that some request had been waiting for an answer when all ended"""

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return len(self.answered) / self.seconds

    def milliseconds(self, quantile: float) -> float:
        """Of the answered requests."""
        return float(np.percentile(self.answered, quantile)) * 1e3 if self.answered else float("nan")


def crowd(
    url: str, requests: Sequence[bytes], clients: int, *, seconds: float, warm_up: float, rate: float | None = None
) -> Crowd:
    """Many clients, some of whom are turned away; what happens during `warm_up` is not counted.

    Each sends its next request when it has an answer; one that was turned away (503) waits as `TopicClient` does,
    0.1 s at first, twice as long each time up to 2 s, shortened by chance by up to a half. With a `rate`, clients
    send that many requests a second in all, however many are refused, as long as one of them is free.
    """
    parts = urlsplit(url)
    selector = selectors.DefaultSelector()
    free: list[tuple[float, int, socket.socket]] = []
    started = time.perf_counter()
    for i in range(clients):
        connection = socket.create_connection((parts.hostname, parts.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        # Not all at once: nobody's clients start in the same millisecond.
        heapq.heappush(free, (started + random.random() * warm_up / 2, i, connection))
    number = {connection: i for _, i, connection in free}
    sent_at: dict[socket.socket, float] = {}
    received: dict[socket.socket, bytes] = dict.fromkeys(number, b"")
    refusals: Counter[socket.socket] = Counter()
    found = Crowd(seconds)
    begin, end = started + warm_up, started + warm_up + seconds
    turn, due = 0, started
    while (now := time.perf_counter()) < end:
        while free and free[0][0] <= now and (rate is None or due <= now):
            *_, connection = heapq.heappop(free)
            connection.sendall(requests[turn % len(requests)])
            sent_at[connection] = now
            turn += 1
            found.sent += now >= begin
            due += 1 / rate if rate else 0.0
        if rate is not None and not free:
            due = max(due, now)  # what nobody was free to send is not made up for
        next_at = max(free[0][0], due) if free else now + 0.1
        for key, _ in selector.select(max(0.0, next_at - now)):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            received[connection] += connection.recv(1 << 16)
            status, body = _answer(received[connection])
            if status is None:
                continue
            received[connection] = b""
            now = time.perf_counter()
            waited_since = sent_at.pop(connection)
            pause = 0.0
            if status == 200:
                refusals[connection] = 0
                if now >= begin:
                    found.answered.append(now - waited_since)
            elif status == 503:
                refusals[connection] += 1
                if rate is None:
                    pause = min(2.0, 0.1 * 2.0 ** (refusals[connection] - 1)) * (1 + random.random()) / 2
                if now >= begin:
                    found.refused[body.decode(errors="replace")] += 1
            else:
                raise RuntimeError(f"HTTP {status}: {body.decode(errors='replace')}")
            heapq.heappush(free, (now + pause, number[connection], connection))
    found.longest_wait = max((now - since for since in sent_at.values()), default=0.0)
    for connection in number:
        connection.close()
    return found


def _answer(data: bytes) -> tuple[int | None, bytes]:
    """Status and body of an HTTP answer; no status as long as it is not complete."""
    if not data:
        raise RuntimeError("the server closed a connection")
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None, b""
    lines = head.split(b"\r\n")
    fields = (line.partition(b":") for line in lines[1:])
    length = next((int(value) for name, _, value in fields if name.lower() == b"content-length"), 0)
    return (int(lines[0].split()[1]), body) if len(body) >= length else (None, b"")


def _complete(data: bytes) -> bool:
    status, body = _answer(data)
    if status not in (None, 200):
        raise RuntimeError(f"HTTP {status}: {body.decode(errors='replace')}")
    return status == 200
