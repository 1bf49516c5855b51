"""The client that waits for its answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, overload

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


class Transport(Protocol):
    """Carries one request at a time for each thread; raises a `TopicClientError` where there is no answer."""

    def send(self, request: Request, timeout: float) -> Any: ...

    def close(self) -> None: ...


class TopicClient(BaseTopicClient[Transport]):
    """Topics of texts and embeddings, from Triton servers that serve a BERTopic model.

    May be shared by threads. Connects when first used; a `with` block, or `close`, disconnects.

    Parameters
    ----------
    url : str or sequence of str
        `grpc://host:port` or `http://host:port`, over TLS `grpcs://` or `https://`. Without a port it is
        Triton's own (8001 for gRPC, 8000 for HTTP), or 443 over TLS. HTTP URLs may have a path. Of several
        servers, each request goes to the least busy one; one that fails is left out for a while.
    model : str
        The name that the model was converted under.
    timeout : float
        Seconds that one request may take, its repetitions included. An input larger than the server
        takes at once is several requests.
    attempt_timeout : float, optional
        Seconds after which a request that was not answered is sent again, within `timeout`. Without it only
        `timeout` ends a request to a server that hangs.
    retries : int
        How often a request is repeated after a broken connection, after `attempt_timeout`, or when the server
        turned it away for now; by another server if there is one.
    max_in_flight : int
        How many requests of large inputs and of streams are under way at once.
    tls : Tls, optional
        Certificates for `grpcs://` and `https://`.
    headers : mapping of str to str, optional
        Sent with every request, in gRPC as metadata: `{"authorization": "Bearer …"}`.

    Raises
    ------
    InvalidInput
        A URL without a scheme, a number out of range, or certificates that cannot be read.

    Examples
    --------
    >>> with TopicClient("grpc://localhost:8001") as client:
    ...     for row in client.predict(["the graph has no cycles", "a sparse matrix"]):
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
        max_in_flight: int = 4,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(url, model, timeout, attempt_timeout, retries, max_in_flight, tls, headers, _connect)
        self._threads = ThreadPoolExecutor(max_in_flight, thread_name_prefix="bertopic-client")

    def predict(
        self, inputs: Sequence[str] | npt.NDArray[np.floating[Any]], *, outputs: Iterable[Output] = ()
    ) -> Prediction:
        """Topics of texts or of embeddings.

        Parameters
        ----------
        inputs : sequence of str, or floating-point array [n, dim]
            Embeddings are sent as float32. An empty input gives an empty prediction and asks nobody.
        outputs : iterable of {'membership', 'reduced', 'embeddings'}
            What the server is to answer besides; found on the prediction under the same name.

        Returns
        -------
        Prediction
            In the order of `inputs`, all by one version of the model.

        Raises
        ------
        TopicClientError
            One of this package's named errors. Nothing is returned unless all rows were answered.
        """
        return self._ask(self._predict(inputs, outputs))

    @overload
    def predict_stream(
        self, inputs: Iterable[str] | Iterable[npt.NDArray[np.floating[Any]]], *, on_error: Literal["raise"] = ...
    ) -> Iterator[TopicAssignment]: ...

    @overload
    def predict_stream(
        self, inputs: Iterable[str] | Iterable[npt.NDArray[np.floating[Any]]], *, on_error: Literal["return"]
    ) -> Iterator[TopicAssignment | InvalidInput]: ...

    def predict_stream(
        self, inputs: Iterable[str] | Iterable[npt.NDArray[np.floating[Any]]], *, on_error: OnError = "raise"
    ) -> Iterator[TopicAssignment] | Iterator[TopicAssignment | InvalidInput]:
        """Topics of any number of rows, read as they are needed and handed out in order.

        Reads ahead by 1,024 rows for each request that may be in flight, and holds no more.

        Parameters
        ----------
        inputs : iterable of str, or of floating-point arrays [dim]
            Read in the thread that asks for the results.
        on_error : {'raise', 'return'}
            What becomes of a row that has no answer: its error ends the stream, or takes the row's place in it.

        Yields
        ------
        TopicAssignment
            One for each row; with 'return', an `InvalidInput` for each row that was refused.

        Raises
        ------
        TopicClientError
            As `predict` does; rows are counted from the start of the stream. Errors other than `InvalidInput`
            end the stream always.
        """
        self._check_open()
        check_stream(inputs, on_error)
        return self._stream(iter(inputs), on_error)

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings of texts, float32 [n, dim]; [0, 0] for no texts. Raises as `predict` does."""
        return self._ask(self._embed(texts))

    def topics(self) -> list[Topic]:
        """All topics of the model, the outliers' -1 among them. Raises as `predict` does.

        Labels in predictions come from a copy kept from the first need; calling this renews it.
        """
        return self._ask(self._topics())

    def is_ready(self) -> bool:
        """Whether a server can answer now with every model that this client asks; False too where nobody answers."""
        self._check_open()
        return any(self._is_ready(transport) for transport in self._servers)

    def close(self) -> None:
        """Disconnect, once requests under way are answered."""
        self._closed = True
        self._threads.shutdown()
        for transport in self._servers:
            transport.close()

    def __enter__(self) -> TopicClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Question[T]) -> T:
        self._check_open()
        try:
            requests = next(question)
            while True:
                try:
                    answers = self._send_all(requests)
                except TopicClientError as error:
                    requests = question.throw(error)
                else:
                    requests = question.send(answers)
        except StopIteration as end:
            result: T = end.value
            return result

    def _stream(self, inputs: Iterator[object], on_error: OnError) -> Iterator[Any]:
        # Twice as many chunks as can be asked about: those behind a slow one get on meanwhile.
        window: deque[Future[list[TopicAssignment | InvalidInput]]] = deque()
        first = 0
        try:
            while chunk := list(islice(inputs, CHUNK_ROWS)):
                window.append(self._threads.submit(self._ask, self._assign(chunk, first, on_error)))
                first += len(chunk)
                while window and (len(window) >= 2 * self._max_in_flight or window[0].done()):
                    yield from window.popleft().result()
            while window:
                yield from window.popleft().result()
        finally:
            for future in window:
                future.cancel()

    def _send_all(self, requests: Sequence[Request]) -> list[Any]:
        if len(requests) == 1:
            # A lone request is spared the way through another thread.
            return [self._send(requests[0])]
        futures = [self._threads.submit(self._send, request) for request in requests]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _send(self, request: Request) -> Any:
        attempts = self._attempts()
        while True:
            with attempts as (transport, timeout):
                return transport.send(request, timeout)
            time.sleep(attempts.pause)
            self._check_open()

    def _is_ready(self, transport: Transport) -> bool:
        try:
            return all(transport.send(request, self._timeout) for request in self._readiness())
        except TopicClientError:
            return False


def _connect(address: Address, credentials: Credentials) -> Transport:
    # Either protocol's libraries take a while to import, and only one of them is needed.
    if address.is_grpc:
        from ._grpc import GrpcTransport

        return GrpcTransport(address, credentials)
    from ._http import HttpTransport

    return HttpTransport(address, credentials)
