"""Streams and asyncio against a running server."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from bertopic_client import AsyncTopicClient, InvalidInput, TopicClient

Stream = Callable[..., list[Any]]


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: Any) -> str:
    return str(getattr(server, f"{request.param}_url"))


@pytest.fixture(params=["sync", "async", "async iterable"])
def stream(request: pytest.FixtureRequest, url: str) -> Stream:
    """All of what `predict_stream` gives for an iterable, by each client."""

    def sync(inputs: Iterable[Any], **options: Any) -> list[Any]:
        with TopicClient(url) as client:
            return list(client.predict_stream(inputs, **options))

    async def later(inputs: Iterable[Any], **options: Any) -> list[Any]:
        given = asynchronous(inputs) if request.param == "async iterable" else inputs
        async with AsyncTopicClient(url) as client:
            return [row async for row in client.predict_stream(given, **options)]

    async def asynchronous(inputs: Iterable[Any]) -> AsyncIterator[Any]:
        for item in inputs:
            await asyncio.sleep(0)
            yield item

    return sync if request.param == "sync" else lambda *args, **options: asyncio.run(later(*args, **options))


def test_a_stream_is_answered_in_order(stream: Stream, client: TopicClient, trained: Any) -> None:
    texts, embeddings = trained.texts[:200], trained.embeddings[:1700]
    assert stream(iter(texts)) == list(client.predict(texts))
    assert stream(embeddings) == list(client.predict(embeddings))


def test_refused_rows_take_their_place(stream: Stream, client: TopicClient, trained: Any) -> None:
    rows: list[Any] = list(trained.embeddings[:1200])
    expected = list(client.predict(trained.embeddings[:1200]))
    bad = {
        3: np.full(384, np.nan, np.float32),
        4: None,
        600: np.zeros(384, np.float32),
        601: np.zeros(384, np.float32),
        1199: np.ones(7, np.float32),
    }
    for i, row in bad.items():
        rows[i] = row
    found = stream(rows, on_error="return")
    assert {i for i, row in enumerate(found) if isinstance(row, InvalidInput)} == set(bad)
    assert all(found[i].row == i and re.search(rf"\b{i}\b", str(found[i])) for i in bad)
    assert all(found[i] == expected[i] for i in range(1200) if i not in bad)


def test_a_refused_row_ends_the_stream(stream: Stream, trained: Any) -> None:
    rows = np.tile(trained.embeddings[:1000], (2, 1))
    rows[1777] = np.nan
    with pytest.raises(InvalidInput, match=r"\b1777\b") as refused:
        stream(rows)
    assert refused.value.row == 1777


def test_a_stream_reads_only_so_far_ahead(url: str, trained: Any) -> None:
    read = 0

    def endless() -> Iterator[Any]:
        nonlocal read
        for row in itertools.cycle(trained.embeddings[:100]):
            read += 1
            yield row

    with TopicClient(url, max_in_flight=2) as client:
        rows = client.predict_stream(endless())
        for taken, _ in enumerate(itertools.islice(rows, 20_000), 1):
            assert read - taken <= 1024 * 2
        rows.close()  # type: ignore[attr-defined]
        assert client.predict(["still of use"])


def test_memory_does_not_grow_with_the_stream(url: str, trained: Any) -> None:
    def peak(n_rows: int) -> int:
        tracemalloc.start()
        with TopicClient(url, max_in_flight=2) as client:
            given = itertools.islice(itertools.cycle(trained.embeddings[:100]), n_rows)
            assert sum(1 for _ in client.predict_stream(given)) == n_rows
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2_000)
    assert peak(30_000) < 1.5 * peak(6_000)


def test_an_error_of_the_source_is_the_streams(stream: Stream) -> None:
    def broken() -> Iterator[str]:
        yield from ["a text"] * 600
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here"):
        stream(broken())


def test_the_client_for_asyncio_answers_as_the_other_does(url: str, client: TopicClient, trained: Any) -> None:
    texts = trained.texts[:150]

    async def ask() -> None:
        async with AsyncTopicClient(url) as other:
            assert await other.is_ready()
            assert await other.topics() == client.topics()
            np.testing.assert_array_equal(await other.embed(texts), client.embed(texts))
            whole = await other.predict(texts, outputs=["membership", "reduced", "embeddings"])
            assert list(whole) == list(client.predict(texts))
            assert whole.model_version == client.predict(texts).model_version == "1"
            one_by_one = await asyncio.gather(*[other.predict([text]) for text in texts])
            assert [row for prediction in one_by_one for row in prediction] == list(whole)

    asyncio.run(ask())


def test_a_cancelled_call_sends_no_more_requests(url: str, server: Any, trained: Any) -> None:
    def answered() -> int:
        return int(server.server.statistics("BERTopic-text")["inference_count"])

    async def ask(texts: list[str]) -> None:
        async with AsyncTopicClient(url, max_in_flight=2) as client:
            asking = asyncio.ensure_future(client.predict(texts))
            while answered() == before:
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    before = answered()
    asyncio.run(ask(trained.texts[:64] * 30))
    time.sleep(1)
    after = answered()
    time.sleep(0.5)
    assert answered() == after < before + 64 * 30
