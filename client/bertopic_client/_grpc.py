"""Requests over gRPC, by tritonclient."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ._address import Address
from ._outcomes import from_grpc, no_answer
from ._requests import Answer, Infer, Readiness, Request, RowLimit, row_limit
from ._security import Credentials

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's own pauses between connection attempts reach minutes: a server that is back stays unseen.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
# Triton before 24.12 can crash when a call is cancelled, by its caller or its deadline, in the moment that it is
# answered (https://github.com/triton-inference-server/server/issues/7368). So what somebody no longer waits for
# ends by itself: its own deadline comes this much later, in seconds.
GRACE = 30.0
# Seconds below which that moment is likely enough to avoid it in threads too, where waiting costs 0.1 ms.
_SHORT = 1.0


def encode(request: Infer) -> dict[str, Any]:
    """A request as the arguments of tritonclient's `infer`."""
    inputs = []
    for name, values in request.inputs.items():
        tensor = triton.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
        inputs.append(tensor.set_data_from_numpy(values))
    outputs = [triton.InferRequestedOutput(name) for name in request.outputs]
    return {
        "model_name": request.model,
        "model_version": request.version,
        "inputs": inputs,
        "outputs": outputs,
    }


def decode(request: Infer, result: triton.InferResult) -> Answer:
    """The answer in what tritonclient's `infer` returns."""
    return request.collect(result.as_numpy, result.get_response().model_version)


def decode_row_limit(answer: Any) -> int:
    """The limit in what tritonclient's `get_model_config` returns."""
    config = answer.config
    return row_limit(config.max_batch_size, config.parameters["max_rows"].string_value)


def channel(credentials: Credentials, address: Address) -> dict[str, Any]:
    """The arguments of tritonclient's `InferenceServerClient`."""
    tls = credentials.tls
    return {
        "url": address.netloc,
        "ssl": address.is_secure,
        "root_certificates": tls.ca,
        "certificate_chain": tls.certificate,
        "private_key": tls.key,
        "channel_args": CHANNEL_OPTIONS,
    }


class GrpcTransport:
    """One channel, shared by all threads."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address = address
        self._headers = credentials.headers
        self._server = triton.InferenceServerClient(**channel(credentials, address))

    def send(self, request: Request, timeout: float) -> Any:
        """Ask once; `timeout` in seconds. Raises a `TopicClientError`."""
        how: dict[str, Any] = {"client_timeout": timeout, "headers": self._headers}
        try:
            match request:
                case Infer() if timeout < _SHORT:
                    return self._infer_within(request, timeout)
                case Infer():
                    return decode(request, self._server.infer(**encode(request), **how))
                case RowLimit(model):
                    return decode_row_limit(self._server.get_model_config(model, **how))
                case Readiness(model):
                    return self._server.is_model_ready(model, **how)
        except InferenceServerException as error:
            raise from_grpc(error, request, self._address, timeout) from error

    def close(self) -> None:
        self._server.close()

    def _infer_within(self, request: Infer, timeout: float) -> Answer:
        answer: Future[triton.InferResult] = Future()

        def settle(result: triton.InferResult | None, error: InferenceServerException | None) -> None:
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        self._server.async_infer(
            **encode(request), callback=settle, client_timeout=timeout + GRACE, headers=self._headers
        )
        try:
            return decode(request, answer.result(timeout))
        except FutureTimeout:
            raise no_answer(request, self._address, timeout) from None
