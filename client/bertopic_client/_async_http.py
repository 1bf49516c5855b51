"""Requests over HTTP for asyncio: tritonclient writes and reads the messages, aiohttp carries them."""

from __future__ import annotations

import asyncio
import io
from functools import cached_property
from typing import Any

import aiohttp
from yarl import URL

from ._address import Address
from ._http import HEADER_LENGTH, Message, Response, decode, encode
from ._outcomes import from_connection
from ._requests import Request
from ._security import Credentials


class AsyncHttpTransport:
    """As many connections as there are requests under way, kept open between requests."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address = address
        self._credentials = credentials

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        # Connections belong to the event loop that they are made in, so they are made when first used.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._credentials.context or True)
        return aiohttp.ClientSession(connector=connector, headers=self._credentials.headers)

    async def send(self, request: Request, timeout: float) -> Any:
        """Ask once; `timeout` in seconds. Raises a `TopicClientError`."""
        try:
            response = await self._exchange(encode(request), timeout)
        except asyncio.TimeoutError as error:
            raise from_connection(TimeoutError("timed out"), request, self._address, timeout) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError) as error:
            raise from_connection(ConnectionResetError(str(error)), request, self._address, timeout) from error
        except (aiohttp.ClientError, OSError) as error:
            raise from_connection(error, request, self._address, timeout) from error
        return decode(request, response, self._address, timeout)

    async def close(self) -> None:
        if "_session" in self.__dict__:
            await self._session.close()

    async def _exchange(self, message: Message, timeout: float) -> Response:
        address = self._address
        async with self._session.request(
            message.method,
            # What is quoted already is not to be quoted again.
            URL(f"{address.scheme}://{address.netloc}{address.path}{message.path}", encoded=True),
            data=io.BytesIO(message.body) if message.body else None,
            headers=message.headers,
            timeout=aiohttp.ClientTimeout(total=timeout),
            allow_redirects=False,
        ) as response:
            body = await response.read()
            return Response(response.status, response.headers.get(HEADER_LENGTH, ""), body)
