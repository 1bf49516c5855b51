"""What went wrong on the way to an answer, as the error that a user meets.

Triton says the same over gRPC and HTTP in different codes; both come down to one set of errors here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tritonclient.utils import InferenceServerException

from ._address import Address
from ._exceptions import (
    AccessDenied,
    ConnectionFailed,
    InvalidInput,
    NotReady,
    ServerError,
    Timeout,
    TopicClientError,
    Unavailable,
    UnknownModel,
)
from ._requests import Infer, Request


class VersionGone(NotReady):
    """The version of the model that was asked for is no longer there, or not on every server yet."""


GRPC_ERRORS: dict[str, type[TopicClientError]] = {
    "StatusCode.INVALID_ARGUMENT": InvalidInput,
    "StatusCode.NOT_FOUND": UnknownModel,
    "StatusCode.UNAUTHENTICATED": AccessDenied,
    "StatusCode.PERMISSION_DENIED": AccessDenied,
    "StatusCode.DEADLINE_EXCEEDED": Timeout,
    "StatusCode.UNAVAILABLE": Unavailable,
    "StatusCode.RESOURCE_EXHAUSTED": Unavailable,
    # Only a server that stops cancels a call; what the caller cancels has nobody left to tell.
    "StatusCode.CANCELLED": Unavailable,
}
# Those that Triton itself does not send come from proxies before it.
HTTP_ERRORS: dict[int, type[TopicClientError]] = {
    400: InvalidInput,
    401: AccessDenied,
    403: AccessDenied,
    404: UnknownModel,
    413: InvalidInput,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Timeout,
}
# Where the words say more than the code. gRPC, for one, reports a server that it cannot reach with
# the code of one that is too busy.
TELLING_WORDS: dict[str, type[TopicClientError]] = {
    # Said to all whose requests were in one batch with another client's, whose text lied about its length; what
    # this client sends is well-formed.
    r"incomplete string data": Unavailable,
    r"has no available versions|is not at ready state|is not ready|Server not ready": NotReady,
    r"Request for unknown model": UnknownModel,
    r"message larger than max": InvalidInput,
    r"(protocol|API) is restricted": AccessDenied,
    r"failed to connect|errors? resolving|DNS resolution|Socket closed|Stream removed|Connection reset"
    r"|Broken pipe|GOAWAY|keepalive": ConnectionFailed,
}
# A failure of the server's own is passing where its words are these: of Triton, whose python model's process
# died, and of HTTP/2, whose connection did.
PASSING_FAILURES: dict[str, type[TopicClientError]] = {
    r"Stub process .*is not healthy|Failed to obtain the health mutex": NotReady,
    r"RST_STREAM|Stream removed": ConnectionFailed,
}
# What Triton puts around a model's own words, of no use to a caller.
NOISE = re.compile(r"in ensemble '[^']*', |\[request id: [^]]*] | NOTE: Setting a non-zero max_batch_size.*")

SENTENCES: dict[type[TopicClientError], str] = {
    InvalidInput: "{model} at {address} refused{rows}: {said}.",
    UnknownModel: "{address} has no model {model}: {said}. "
    "TopicClient(model=...) takes the name that the model was converted under.",
    AccessDenied: "{address} denies access to {model}: {said}. "
    "Give TopicClient(headers=..., tls=...) the credentials that its operator hands out.",
    Timeout: "No answer from {model} at {address} within {timeout:.3g} s: {said}. "
    "Raise timeout or attempt_timeout of TopicClient(...), or see what keeps the server busy.",
    Unavailable: "{model} at {address} turned the request away: {said}. Send fewer at once, or try later.",
    ConnectionFailed: "No connection to {address}: {said}. Is the server running, and does this port speak "
    "{address.scheme}? Triton's own are 8000 for http and 8001 for grpc.",
    NotReady: "{model} at {address} is not ready: {said}. Wait until is_ready() is true; "
    "the server's log says whether the model is loading, failed to, or died.",
    ServerError: "{model} at {address} failed: {said}. The server's log says more.",
}


def from_grpc(error: InferenceServerException, request: Request, address: Address, timeout: float) -> TopicClientError:
    """The error for what tritonclient raised over gRPC."""
    kind = GRPC_ERRORS.get(str(error.status()), ServerError)
    return _error(kind, str(error.message()), request, address, timeout)


def from_http(status: int, message: str, request: Request, address: Address, timeout: float) -> TopicClientError:
    """The error for an HTTP status other than 200."""
    kind = HTTP_ERRORS.get(status, ServerError)
    return _error(kind, message or f"HTTP status {status} without a word", request, address, timeout)


def no_answer(request: Request, address: Address, timeout: float) -> TopicClientError:
    """The error for an answer that was waited for in vain."""
    return _error(Timeout, "timed out", request, address, timeout)


def from_connection(error: Exception, request: Request, address: Address, timeout: float) -> TopicClientError:
    """The error for an HTTP exchange that ended without an answer."""
    if isinstance(error, TimeoutError):
        return _error(Timeout, str(error), request, address, timeout)
    # What is no HTTP is quoted raw in an HTTPException, so only its name is fit to print.
    message = str(error) if isinstance(error, OSError) else f"{type(error).__name__}, not an HTTP answer"
    return _error(ConnectionFailed, message, request, address, timeout)


def _error(
    kind: type[TopicClientError], message: str, request: Request, address: Address, timeout: float
) -> TopicClientError:
    telling = PASSING_FAILURES if kind is ServerError else PASSING_FAILURES | TELLING_WORDS
    kind = next((told for words, told in telling.items() if re.search(words, message)), kind)
    said = NOISE.sub("", message).strip().rstrip(".")
    rows, row = "", None
    if isinstance(request, Infer) and request.rows:
        said, row = _in_users_rows(said, request.rows)
        first, last = request.rows[0], request.rows[-1]
        rows = f" row {first}" if len(request.rows) == 1 else f" rows {first} to {last}"
    sentence = SENTENCES[kind].format(model=repr(request.model), address=address, rows=rows, said=said, timeout=timeout)
    if isinstance(request, Infer) and request.version and issubclass(kind, UnknownModel | NotReady):
        return VersionGone(sentence)
    error = kind(sentence)
    if isinstance(error, InvalidInput):
        error.row = row
    return error


def _in_users_rows(said: str, rows: Sequence[int]) -> tuple[str, int | None]:
    """What a server said of row i of its request, as said of the user's; and which row that is, if one is meant."""
    found = re.search(r"(?<=\brow )\d+", said)
    if found is None or int(found[0]) >= len(rows):
        return said, rows[0] if len(rows) == 1 else None
    row = rows[int(found[0])]
    return f"{said[: found.start()]}{row}{said[found.end() :]}", row
