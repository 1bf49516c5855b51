"""Which of several servers a request goes to.

A server that fails is left out for a pause. Then one request is let through on trial: its success takes the
server back in, its failure makes the next pause longer.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ._exceptions import ConnectionFailed, NotReady, Timeout, TopicClientError
from ._outcomes import VersionGone

T = TypeVar("T")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0


def growing_pause(n: int, first: float, longest: float, chance: float) -> float:
    """Seconds to wait for the n-th time, counted from 1; `chance` is uniform on [0, 1).

    Doubles from `first` up to `longest`, and half of it is left to chance: clients that were turned away
    together do not come back together.
    """
    # The exponent is bounded so that a float can hold the power.
    return min(longest, first * 2.0 ** min(n - 1, 16)) * (1 + chance) / 2


class Server(Generic[T]):
    """One server, as the requests to it show it."""

    def __init__(self, transport: T) -> None:
        self.transport = transport
        self.in_flight = 0
        self.last_pick = 0
        # How often in a row it failed, when it last did, and until when it is left out.
        self.failures = 0
        self.out_since = 0.0
        self.out_until = 0.0


class Servers(Generic[T]):
    """All servers of a client, shared by its threads."""

    def __init__(self, transports: Sequence[T]) -> None:
        self._servers = [Server(transport) for transport in transports]
        self._picks = itertools.count(1)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[T]:
        return (server.transport for server in self._servers)

    def pick(self, tried: Collection[Server[T]]) -> Server[T]:
        """The least busy server that is not left out, one of those not `tried` if there is any.

        With all left out, the one that is due back first. To be settled when the request has ended.
        """
        now = time.monotonic()

        def rank(server: Server[T]) -> tuple[bool, bool, float, int, int]:
            out = max(server.out_until - now, 0.0)
            return out > 0, server in tried, out, server.in_flight, server.last_pick

        with self._lock:
            server = min(self._servers, key=rank)
            server.in_flight += 1
            server.last_pick = next(self._picks)
            if server.failures and server.out_until <= now:
                # On trial: other requests stay away until its outcome is known.
                server.out_until = now + _pause(server)
            return server

    def settle(self, server: Server[T], started: float, error: BaseException | None) -> None:
        """Take note of how a request to a server ended that was picked at `started`."""
        with self._lock:
            server.in_flight -= 1
            if started < server.out_since:
                return  # from before the failure that is known already
            if _fails_the_server(error):
                server.failures += 1
                server.out_since = time.monotonic()
                server.out_until = server.out_since + _pause(server)
            elif error is None or isinstance(error, TopicClientError):
                server.failures = 0
                server.out_until = 0.0


def _pause(server: Server[Any]) -> float:
    return growing_pause(server.failures, FIRST_PAUSE, LONGEST_PAUSE, random.random())


def _fails_the_server(error: BaseException | None) -> bool:
    """Whether an error speaks of the server, rather than of the request or of the load."""
    return isinstance(error, (ConnectionFailed, NotReady, Timeout)) and not isinstance(error, VersionGone)
