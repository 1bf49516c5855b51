"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from ._address import Address
from ._core import CHUNK_ROWS, BaseTopicClient, OnError, Question, check_stream
from ._exceptions import InvalidInput, TopicClientError
from ._prediction import Output, Prediction, TopicAssignment
from ._requests import Request
from ._security import Credentials, Tls
from ._topics import Topic

T = TypeVar("T")
Embedding: TypeAlias = npt.NDArray[np.floating[Any]]
Rows: TypeAlias = Iterable[str] | AsyncIterable[str] | Iterable[Embedding] | AsyncIterable[Embedding]


class AsyncTransport(Protocol):
    """Carries any number of requests at once; raises a `TopicClientError` where there is no answer."""

    async def send(self, request: Request, timeout: float) -> Any: ...

    async def close(self) -> None: ...


class AsyncTopicClient(BaseTopicClient[AsyncTransport]):
    """Topics of texts and embeddings, from Triton servers that serve a BERTopic model, for asyncio.

    Does what `TopicClient` does, and takes the same parameters. May be shared by the tasks of one event loop.
    Cancelling a call sends no more of its requests; over gRPC, those under way are still answered, to nobody.

    Parameters
    ----------
    max_in_flight : int
        How many requests are under way at once, of all calls together. The others wait for their turn, which
        `timeout` does not count. Where each call has few rows, several times the default serves them faster.

    Examples
    --------
    >>> async with AsyncTopicClient("grpc://localhost:8001") as client:
    ...     for row in await client.predict(["the graph has no cycles", "a sparse matrix"]):
    ...         print(row.topic, row.label, row.probability)
    """

    def __init__(
        self,
        url: str | Sequence[str] = "grpc://localhost:8001",
        *,
        model: str = "BERTopic",
        timeout: float = 30.0,
        attempt_timeout: float | None = None,
        retries: int = 3,
        max_in_flight: int = 8,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(url, model, timeout, attempt_timeout, retries, max_in_flight, tls, headers, _connect)
        self._slots = asyncio.Semaphore(max_in_flight)

    async def predict(
        self, inputs: Sequence[str] | npt.NDArray[np.floating[Any]], *, outputs: Iterable[Output] = ()
    ) -> Prediction:
        """Topics of texts or of embeddings, as `TopicClient.predict`."""
        return await self._ask(self._predict(inputs, outputs))

    @overload
    def predict_stream(self, inputs: Rows, *, on_error: Literal["raise"] = ...) -> AsyncIterator[TopicAssignment]: ...

    @overload
    def predict_stream(
        self, inputs: Rows, *, on_error: Literal["return"]
    ) -> AsyncIterator[TopicAssignment | InvalidInput]: ...

    def predict_stream(
        self, inputs: Rows, *, on_error: OnError = "raise"
    ) -> AsyncIterator[TopicAssignment] | AsyncIterator[TopicAssignment | InvalidInput]:
        """Topics of any number of rows, as `TopicClient.predict_stream`; `inputs` may be an async iterable too."""
        self._check_open()
        check_stream(inputs, on_error)
        return self._stream(inputs, on_error)

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings of texts, as `TopicClient.embed`."""
        return await self._ask(self._embed(texts))

    async def topics(self) -> list[Topic]:
        """All topics of the model, as `TopicClient.topics`."""
        return await self._ask(self._topics())

    async def is_ready(self) -> bool:
        """Whether a server can answer now, as `TopicClient.is_ready`."""
        self._check_open()
        return any(await asyncio.gather(*map(self._is_ready, self._servers)))

    async def close(self) -> None:
        """Disconnect, once requests under way are answered."""
        if self._closed:
            return
        self._closed = True
        async with AsyncExitStack() as all_slots:
            for _ in range(self._max_in_flight):
                await all_slots.enter_async_context(self._slots)
            for transport in self._servers:
                await transport.close()

    async def __aenter__(self) -> AsyncTopicClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, question: Question[T]) -> T:
        self._check_open()
        try:
            requests = next(question)
            while True:
                try:
                    answers = await _all(map(self._send, requests))
                except TopicClientError as error:
                    requests = question.throw(error)
                else:
                    requests = question.send(answers)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _stream(self, inputs: Rows, on_error: OnError) -> AsyncIterator[Any]:
        # Twice as many chunks as can be asked about: those behind a slow one get on meanwhile.
        window: deque[asyncio.Future[list[TopicAssignment | InvalidInput]]] = deque()
        first = 0
        try:
            async for chunk in _chunks(inputs):
                window.append(asyncio.ensure_future(self._ask(self._assign(chunk, first, on_error))))
                first += len(chunk)
                while window and (len(window) >= 2 * self._max_in_flight or window[0].done()):
                    for row in await window.popleft():
                        yield row
            while window:
                for row in await window.popleft():
                    yield row
        finally:
            await _cancel(window)

    async def _send(self, request: Request) -> Any:
        async with self._slots:
            self._check_open()
            attempts = self._attempts()
            while True:
                with attempts as (transport, timeout):
                    return await transport.send(request, timeout)
                await asyncio.sleep(attempts.pause)

    async def _is_ready(self, transport: AsyncTransport) -> bool:
        try:
            return all([await transport.send(request, self._timeout) for request in self._readiness()])
        except TopicClientError:
            return False


async def _all(coroutines: Iterable[Any]) -> list[Any]:
    """The results of all, or the first error; what is under way then is cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    # Those that ended are awaited too: asyncio complains of an error that nobody looked at.
    await asyncio.gather(*tasks, return_exceptions=True)


async def _chunks(inputs: Rows) -> AsyncIterator[list[object]]:
    chunk: list[object] = []
    async for item in _rows(inputs):
        chunk.append(item)
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _rows(inputs: Rows) -> AsyncIterator[object]:
    if isinstance(inputs, AsyncIterable):
        async for item in inputs:
            yield item
    else:
        for item in inputs:
            yield item


def _connect(address: Address, credentials: Credentials) -> AsyncTransport:
    # Either protocol's libraries take a while to import, and only one of them is needed.
    if address.is_grpc:
        from ._async_grpc import AsyncGrpcTransport

        return AsyncGrpcTransport(address, credentials)
    from ._async_http import AsyncHttpTransport

    return AsyncHttpTransport(address, credentials)
