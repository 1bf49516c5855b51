"""Requests share batches, and a lone request does not wait for company."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc

CONCURRENCY = 32


def _counts(server: Any, model: str) -> tuple[int, int]:
    statistics = server.server.statistics(model)
    return int(statistics["inference_count"]), int(statistics["execution_count"])


def test_texts_of_different_lengths_share_batches(server: Any, trained: Any) -> None:
    texts = trained.texts[:1024]
    assert len({len(text.split()) for text in texts}) > 10
    before = _counts(server, "BERTopic-text")
    failed: list[Exception] = []
    free = threading.Semaphore(CONCURRENCY)

    def done(result: Any, error: Exception | None) -> None:
        failed.extend([error] if error else [])
        free.release()

    with grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        for text in texts:
            free.acquire()
            tensor = grpc.InferInput("TEXT", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
            client.async_infer("BERTopic-text", [tensor], done, outputs=[grpc.InferRequestedOutput("OUT")])
        for _ in range(CONCURRENCY):
            free.acquire()

    after = _counts(server, "BERTopic-text")
    rows, executions = after[0] - before[0], after[1] - before[1]
    assert not failed
    assert rows == len(texts)
    assert rows / executions > 8


def test_a_lone_request_is_never_delayed(repository: Path) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    paths = list(repository.glob("*/config.pbtxt"))
    assert len(paths) == 8
    for path in paths:
        config = text_format.Parse(path.read_text(), ModelConfig())
        assert config.dynamic_batching.max_queue_delay_microseconds == 0, path
