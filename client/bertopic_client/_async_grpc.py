"""Requests over gRPC for asyncio, by tritonclient."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from ._address import Address
from ._grpc import GRACE, channel, decode, decode_row_limit, encode
from ._outcomes import from_grpc, no_answer
from ._requests import Answer, Infer, Readiness, Request, RowLimit
from ._security import Credentials


class AsyncGrpcTransport:
    """One channel, shared by all tasks of one event loop."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address = address
        self._credentials = credentials
        self._under_way: set[asyncio.Future[Any]] = set()

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
                    return await self._infer(request, timeout)
                case RowLimit(model):
                    return decode_row_limit(await self._server.get_model_config(model, **how))
                case Readiness(model):
                    return await self._server.is_model_ready(model, **how)
        except InferenceServerException as error:
            raise from_grpc(error, request, self._address, timeout) from error

    async def _infer(self, request: Infer, timeout: float) -> Answer:
        call = asyncio.ensure_future(
            self._server.infer(**encode(request), client_timeout=timeout + GRACE, headers=self._credentials.headers)
        )
        self._under_way.add(call)
        call.add_done_callback(self._forget)
        try:
            # Shielded: neither the timeout nor whoever cancels may cancel the call itself.
            return decode(request, await asyncio.wait_for(asyncio.shield(call), timeout))
        except asyncio.TimeoutError:
            raise no_answer(request, self._address, timeout) from None

    async def close(self) -> None:
        if "_server" in self.__dict__:
            await self._server.close()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _forget(self, call: asyncio.Future[Any]) -> None:
        self._under_way.discard(call)
        if not call.cancelled():
            call.exception()  # asyncio complains of an error that nobody looked at
