"""Requests over gRPC for asyncio, by tritonclient."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from ._address import Address
from ._grpc import channel, decode, decode_row_limit, encode
from ._outcomes import from_grpc
from ._requests import Infer, Readiness, Request, RowLimit
from ._security import Credentials


class AsyncGrpcTransport:
    """One channel, shared by all tasks of one event loop."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address = address
        self._credentials = credentials

    @cached_property
    def _server(self) -> triton.InferenceServerClient:
        # A channel belongs to the event loop that it is made in, so it is made when first used.
        return triton.InferenceServerClient(**channel(self._credentials, self._address))

    async def send(self, request: Request, timeout: float) -> Any:
        """Ask once; `timeout` in seconds. Raises a `TopicClientError`."""
        how: dict[str, Any] = {"client_timeout": timeout, "headers": self._credentials.headers}
        try:
            match request:
                case Infer():
                    return decode(request, await self._server.infer(**encode(request), **how))
                case RowLimit(model):
                    return decode_row_limit(await self._server.get_model_config(model, **how))
                case Readiness(model):
                    return await self._server.is_model_ready(model, **how)
        except InferenceServerException as error:
            raise from_grpc(error, request, self._address, timeout) from error

    async def close(self) -> None:
        if "_server" in self.__dict__:
            await self._server.close()
