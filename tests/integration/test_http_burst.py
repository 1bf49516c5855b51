"""More requests at once over HTTP than Triton's own buffers hold answers for."""

from __future__ import annotations

import json
import selectors
import socket
from collections import Counter
from typing import Any

import pytest

REQUESTS = 3000
REQUEST = json.dumps(
    {
        "inputs": [{"name": "TOPIC", "shape": [1], "datatype": "INT32", "data": [0]}],
        "outputs": [{"name": "JSON", "parameters": {"binary_data": True}}],
    }
).encode()
HEAD = f"POST /v2/models/BERTopic-topics/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(REQUEST)}\r\n\r\n".encode()
TEXT = json.dumps({"inputs": [{"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["a list"]}]}).encode()
TEXT_HEAD = f"POST /v2/models/BERTopic-text/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(TEXT)}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("message", "refused"), [(HEAD + REQUEST, False), (TEXT_HEAD + TEXT, True)], ids=["answers", "refusals"]
)
def test_every_one_is_answered(server: Any, message: bytes, refused: bool) -> None:
    if server.server.answers_held < REQUESTS:
        pytest.skip("needs a user who may enlarge the buffers of another process")
    address = server.server.address
    statuses: Counter[bytes] = Counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(REQUESTS):
            selector.register(
                socket.create_connection((address.host, address.http_port)), selectors.EVENT_READ, bytearray()
            )
        waiting = [key.fileobj for key in selector.get_map().values()]
        for connection in waiting:
            connection.sendall(message)  # type: ignore[union-attr]
        while len(selector.get_map()):
            ready = selector.select(60)
            assert ready, f"{len(selector.get_map())} requests were never answered"
            for key, _ in ready:
                key.data.extend(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]
                if _is_whole(bytes(key.data)):
                    statuses[bytes(key.data).split()[1]] += 1
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
    assert statuses.total() == REQUESTS
    assert statuses.keys() == ({b"200", b"503"} if refused else {b"200"})


def _is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
    return bool(separator) and len(body) >= length
