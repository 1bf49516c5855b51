"""Requests over HTTP: tritonclient writes and reads the messages, the standard library carries them.

tritonclient's own HTTP connections belong to one thread each, which a client shared by threads cannot promise.
"""

from __future__ import annotations

import json
import selectors
from collections import deque
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import quote

import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype

from ._address import Address
from ._exceptions import ServerError
from ._outcomes import from_connection, from_http
from ._requests import Infer, Readiness, Request, RowLimit, row_limit
from ._security import Credentials

HEADER_LENGTH = "Inference-Header-Content-Length"


class Message(NamedTuple):
    """An HTTP request, ready to send."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


class Response(NamedTuple):
    """An HTTP response, read to its end; `header_length` is where its JSON ends and its tensors begin."""

    status: int
    header_length: str
    body: bytes


def encode(request: Request) -> Message:
    """A request as an HTTP message, its tensors in binary."""
    path = f"/v2/models/{quote(request.model, safe='')}"
    match request:
        case RowLimit():
            return Message("GET", f"{path}/config", b"", {})
        case Readiness():
            return Message("GET", f"{path}/ready", b"", {})
        case Infer():
            inputs = []
            for name, values in request.inputs.items():
                tensor = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
                inputs.append(tensor.set_data_from_numpy(values, binary_data=True))
            outputs = [triton.InferRequestedOutput(name, binary_data=True) for name in request.outputs]
            body, header_length = triton.InferenceServerClient.generate_request_body(inputs, outputs)
            if request.version:
                path += f"/versions/{request.version}"
            return Message("POST", f"{path}/infer", body, {HEADER_LENGTH: str(header_length)})


def decode(request: Request, response: Response, address: Address, timeout: float) -> Any:
    """The answer in a response, or the `TopicClientError` that it comes to."""
    if isinstance(request, Readiness):
        return response.status == 200
    if response.status != 200:
        raise from_http(response.status, error_message(response.body), request, address, timeout)
    try:
        if isinstance(request, RowLimit):
            config = json.loads(response.body)
            max_rows = config.get("parameters", {}).get("max_rows", {}).get("string_value", "")
            return row_limit(int(config["max_batch_size"]), max_rows)
        header_length = int(response.header_length)
        result = triton.InferenceServerClient.parse_response_body(response.body, header_length=header_length)
        return request.collect(result.as_numpy, str(result.get_response()["model_version"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServerError(
            f"{request.model!r} was answered with {response.body[:100]!r}, which is not Triton's protocol. "
            "Does the URL lead to something else?"
        ) from error


class HttpTransport:
    """As many connections as there are threads sending, kept open between requests."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address = address
        self._headers = credentials.headers
        self._tls = credentials.context
        self._idle: deque[HTTPConnection] = deque()

    def send(self, request: Request, timeout: float) -> Any:
        """Ask once; `timeout` in seconds. Raises a `TopicClientError`."""
        try:
            response = self._exchange(encode(request), timeout)
        except (OSError, HTTPException) as error:
            raise from_connection(error, request, self._address, timeout) from error
        return decode(request, response, self._address, timeout)

    def close(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _exchange(self, message: Message, timeout: float) -> Response:
        connection = self._connection(timeout)
        try:
            headers = self._headers | message.headers
            connection.request(message.method, self._address.path + message.path, message.body, headers)
            response = connection.getresponse()
            body = response.read()
        except BaseException:
            # Half an exchange may still be under way on it.
            connection.close()
            raise
        self._idle.append(connection)
        return Response(response.status, response.headers[HEADER_LENGTH] or "", body)

    def _connection(self, timeout: float) -> HTTPConnection:
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.sock is not None and not _is_closed_by_server(connection.sock):
                    connection.sock.settimeout(timeout)
                    return connection
                connection.close()
        host, port = self._address.host, self._address.port
        if self._address.is_secure:
            return HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        return HTTPConnection(host, port, timeout=timeout)


def _is_closed_by_server(sock: Any) -> bool:
    """Between requests a server has nothing to say, so an idle connection with news is at its end."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
