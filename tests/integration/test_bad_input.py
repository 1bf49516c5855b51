"""Bad requests: each gets a clear error of its own, and the server goes on."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from bertopic_client import TopicClient
from tritonclient.utils import InferenceServerException

NAN, INF = float("nan"), float("inf")


def infer(url: str, model: str, name: str, array: np.ndarray[Any, Any], datatype: str | None = None) -> Any:
    """One request as a foreign client would send it, over the protocol that the URL names."""
    scheme, address = url.split("://")
    module = triton_grpc if scheme == "grpc" else triton_http
    datatype = datatype or {"float32": "FP32", "float64": "FP64", "object": "BYTES"}[array.dtype.name]
    with module.InferenceServerClient(address) as client:
        tensor = module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        return client.infer(model, [tensor]).as_numpy("OUT")


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: Any) -> str:
    return str(server.grpc_url if request.param == "grpc" else server.http_url)


@pytest.fixture(autouse=True)
def still_serving(server: Any) -> Any:
    """After every bad request the server is ready and answers the next good one."""
    yield
    assert server.server.is_ready()
    with TopicClient(server.grpc_url) as client:
        assert len(client.predict(["a good request"])) == 1


def row(value: float = 0.1, dim: int = 384) -> np.ndarray[Any, Any]:
    return np.full((1, dim), value, np.float32)


def with_value(value: float) -> np.ndarray[Any, Any]:
    array = row()
    array[0, 17] = value
    return array


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        pytest.param(row(dim=383), "383", id="wrong dimension"),
        pytest.param(with_value(NAN), "(?i)nan", id="nan"),
        pytest.param(with_value(INF), "(?i)inf", id="inf"),
        pytest.param(row(0.0), "(?i)zero", id="zero vector"),
        pytest.param(row().astype(np.float64), "FP64", id="float64"),
        pytest.param(
            np.repeat(row(), 1025, axis=0), "1,025 rows, expected at most 1,024", id="more rows than a request may have"
        ),
        pytest.param(row()[0], "(?i)shape|dim|batch", id="no batch dimension"),
    ],
)
def test_bad_embeddings_are_refused(url: str, embeddings: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        infer(url, "BERTopic-inference", "IN", embeddings)


@pytest.mark.parametrize(
    ("model", "name", "rows"),
    [
        pytest.param("BERTopic-inference", "IN", np.empty((0, 384), np.float32), id="embeddings"),
        pytest.param("BERTopic-text", "TEXT", np.empty((0, 1), np.object_), id="texts"),
    ],
)
def test_an_empty_batch_is_refused(url: str, model: str, name: str, rows: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InferenceServerException, match=f"{name}.*got 0"):
        infer(url, model, name, rows)


def test_bytes_that_are_not_utf8_are_refused(url: str) -> None:
    with pytest.raises(InferenceServerException, match="UTF-8"):
        infer(url, "BERTopic-text", "TEXT", np.array([[b"caf\xe9"]], dtype=np.object_))


def test_an_unknown_model_is_refused(url: str) -> None:
    with pytest.raises(InferenceServerException, match="Nothing-inference"):
        infer(url, "Nothing-inference", "IN", row())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("before\0after", id="NUL"),
        pytest.param("many words " * 100_000, id="1 MB"),
        pytest.param("日本語のテキスト 🙂 \u202e", id="non-Latin"),
        pytest.param(" \t\n", id="white space"),
    ],
)
def test_odd_texts_are_texts(url: str, text: str) -> None:
    answer = infer(url, "BERTopic-text", "TEXT", np.array([[text.encode()]], dtype=np.object_))
    assert answer.shape == (1, 1)


def test_the_client_names_the_mistake(server: Any) -> None:
    from bertopic_client import InvalidInput, UnknownModel

    with TopicClient(server.grpc_url) as client, pytest.raises(InvalidInput, match="383"):
        client.predict(row(dim=383))
    with TopicClient(server.grpc_url, model="Nothing") as client, pytest.raises(UnknownModel, match="Nothing"):
        client.predict(row())


def test_a_bad_row_fails_alone(server: Any, trained: Any) -> None:
    """Many clients at once, so that bad rows share dynamic batches with good ones."""
    good = trained.embeddings[:64]
    with TopicClient(server.grpc_url) as client:
        expected = client.predict(good).topics
    answers: dict[int, Any] = {}
    start = threading.Barrier(64)

    def send(i: int) -> None:
        embedding = with_value(NAN) if i % 8 == 0 else good[i : i + 1]
        start.wait()
        try:
            answers[i] = int(infer(server.grpc_url, "BERTopic-inference", "IN", embedding)[0, 0])
        except InferenceServerException as error:
            answers[i] = error

    before = server.server.statistics("BERTopic-umap")
    threads = [threading.Thread(target=send, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = server.server.statistics("BERTopic-umap")

    for i in range(64):
        if i % 8 == 0:
            assert "nan" in str(answers[i]).lower()
        else:
            assert answers[i] == expected[i]
    executions = int(after["execution_count"]) - int(before["execution_count"])
    assert executions < 64, "no two requests shared a batch, so nothing was shown"
