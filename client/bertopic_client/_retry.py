"""When a request is tried again, by which server, and after how long."""

from __future__ import annotations

import random
import time
from types import TracebackType
from typing import Generic, TypeVar

from ._exceptions import Timeout, TopicClientError, Unavailable
from ._outcomes import VersionGone
from ._servers import Server, Servers, growing_pause

T = TypeVar("T")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# A version that no server has after these is not about to come back.
GONE_RETRIES = 3


class Attempts(Generic[T]):
    """The tries of one request: a context manager, entered once for each.

    Entering gives the transport of the next server and the seconds that the try may take. A failure that may
    pass ends there, and `pause` is what to wait before the next try; the last failure, and any other, is raised.
    Predictions are idempotent, so whatever left no answer for a passing reason may be sent again.
    """

    def __init__(self, servers: Servers[T], retries: int, timeout: float, attempt_timeout: float | None) -> None:
        self._servers = servers
        self._retries = retries
        self._deadline = time.monotonic() + timeout
        self._attempt_timeout = attempt_timeout or timeout
        self._tried: list[Server[T]] = []
        self._started = 0.0
        self.pause = 0.0

    def __enter__(self) -> tuple[T, float]:
        server = self._servers.pick(self._tried)
        self._tried.append(server)
        self._started = time.monotonic()
        return server.transport, min(self._attempt_timeout, self._time_left())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._servers.settle(self._tried[-1], self._started, error)
        if not isinstance(error, TopicClientError):
            return False
        error.attempts = made = len(self._tried)
        self.pause = growing_pause(made, FIRST_PAUSE, LONGEST_PAUSE, random.random())
        most = min(self._retries, GONE_RETRIES) if isinstance(error, VersionGone) else self._retries
        return isinstance(error, (Unavailable, Timeout)) and made <= most and self.pause < self._time_left()

    def _time_left(self) -> float:
        """Seconds until the deadline; never quite 0, so that it remains a usable timeout."""
        return max(self._deadline - time.monotonic(), 0.001)
