"""Whatever is sent, the answer is right or says what is wrong, and the server goes on.

`BERTOPIC_SOAK=1` sends 100,000 requests rather than a few thousand, `BERTOPIC_FUZZ_SEED=n` others than usual.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bertopic_client import TopicClient
from bertopic_server import TritonServer

from ._attacks import Attack, Attacker
from ._oracle import Draft, Oracle, Reply, Tensor, complaint, length_prefixed

REQUESTS = 100_000 if os.environ.get("BERTOPIC_SOAK") else 3_000
FIRST_SEED = int(os.environ.get("BERTOPIC_FUZZ_SEED", "0"))
SENDERS = 16
# Connections that send half a request and then nothing, for as long as all others are served.
STALLED = 64

# Answers of Triton itself, given before any model sees the request, that have a server's code for a client's
# mistake. They name the mistake all the same.
TRITONS_OWN = (
    r"500 failed to parse the request JSON buffer",  # JSON that is none
    r"500 Unable to (parse|set) ",  # JSON of other types than the protocol's
    r"500 .*attempt to (access JSON|get members)",  # the same
    r"500 .*decompress",  # a body that is not compressed as it says
    r"INTERNAL Unable to parse request",  # bytes that are no protobuf message
    r"(500|INTERNAL) batch size \d+ for",  # no rows, so that the next dimension is taken for their number
)
# Triton's python backend meets a text whose length lies before any of the model's code runs, and refuses with it
# whatever is in the same batch.
SPOILED_BY_ANOTHER = r"(400|INVALID_ARGUMENT) incomplete string data"


@pytest.fixture(scope="module")
def oracle(repository: Path) -> Oracle:
    return Oracle(repository)


@pytest.fixture(scope="module")
def attacker(triton: TritonServer, oracle: Oracle, trained: Any) -> Attacker:
    address = triton.address
    return Attacker(oracle, trained.texts[:200], (address.host, address.http_port), (address.host, address.grpc_port))


@pytest.fixture
def stalled(triton: TritonServer) -> Iterator[None]:
    address = triton.address
    halves = (
        (address.http_port, b"POST /v2/models/BERTopic-text/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"),
        (address.grpc_port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"),
    )
    with ExitStack() as connections:
        for i in range(STALLED):
            port, half = halves[i % 2]
            connections.enter_context(socket.create_connection((address.host, port))).sendall(half)
        yield


def test_every_answer_is_right_or_says_what_is_wrong(
    triton: TritonServer, attacker: Attacker, oracle: Oracle, trained: Any, stalled: None
) -> None:
    stubs = _stubs(triton)
    assert len(stubs) >= len(oracle.configs)
    kinds: Counter[str] = Counter()

    def run(seed: int) -> str | None:
        attack = attacker.attack(seed)
        reply = attack.send()
        kinds[f"{attack.what.split(maxsplit=1)[0]} {reply.kind}"] += 1
        wrong = _judged(attack, reply, oracle)
        return wrong and f"seed {seed}, {attack.what:.100}: {' '.join(wrong.split()):.300}"

    with ThreadPoolExecutor(SENDERS) as senders:
        complaints = [wrong for wrong in senders.map(run, range(FIRST_SEED, FIRST_SEED + REQUESTS)) if wrong]
    assert not complaints, f"{len(complaints)} of {REQUESTS}, {dict(kinds)}:\n" + "\n".join(complaints[:40])
    assert min(kinds["http answered"], kinds["grpc answered"], kinds["http refused"], kinds["grpc refused"]) > 100

    assert triton.is_ready()
    assert _stubs(triton) == stubs
    texts = trained.texts[:64]
    data = length_prefixed([text.encode() for text in texts])
    right = oracle.answer(Draft("BERTopic-text", [Tensor("TEXT", "BYTES", [64, 1], data)], []))["OUT"]
    for url in (triton.address.http_url, triton.address.grpc_url):
        with TopicClient(url) as client:
            assert client.predict(texts).topics.tolist() == right.tolist()


def _stubs(triton: TritonServer) -> set[int]:
    return set(triton.stubs.serving(triton.version))


def _judged(attack: Attack, reply: Reply, oracle: Oracle) -> str | None:
    """What is wrong with the reply to an attack, if anything is."""
    match reply.kind:
        case "answered" | "refused":
            valid = attack.valid and not re.match(SPOILED_BY_ANOTHER, reply.message)
            return complaint(reply, attack.asked, oracle, valid=valid)
        case "dropped":
            return None
        case "closed":
            return None if attack.closing else "the connection was closed without a word"
        case "internal":
            return None if any(re.match(own, reply.message) for own in TRITONS_OWN) else reply.message
    return "no answer in time"
