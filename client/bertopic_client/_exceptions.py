"""Every error the client raises.

TopicClientError
├── InvalidInput           what was given has no answer: found here, or refused by the server
├── UnknownModel           the server has no model of that name
├── AccessDenied           the server, or a proxy before it, asks for other credentials
├── Timeout                no answer in time                                              (tried again)
├── Unavailable            turned away for now: a full queue, a server that is stopping   (tried again)
│   ├── ConnectionFailed   nobody answers at the URL, or the connection broke             (tried again)
│   └── NotReady           the model cannot answer: not loaded yet, no longer, or it died (tried again)
├── ServerError            the server failed, or answered something that is no answer
└── ClientClosed           the client was used after `close`
"""


class TopicClientError(Exception):
    """Base of all errors of this package.

    Attributes
    ----------
    attempts : int
        How often the request was sent; 0 for an error found before anything was sent.
    """

    attempts: int = 0

    def __str__(self) -> str:
        tried = f" (Tried {self.attempts} times.)" if self.attempts > 1 else ""
        return super().__str__() + tried


class InvalidInput(TopicClientError, ValueError):
    """What was given has no answer: found before sending, or refused by the server.

    Attributes
    ----------
    row : int or None
        Which row of the input it is, counted from 0, where one row is known to be the cause.
    """

    row: int | None = None


class UnknownModel(TopicClientError, LookupError):
    """The server has no model of that name."""


class AccessDenied(TopicClientError, PermissionError):
    """The server, or a proxy before it, asks for other credentials."""


class Timeout(TopicClientError, TimeoutError):
    """No answer in time."""


class Unavailable(TopicClientError):
    """The server turned the request away for now: its queue is full, or it is stopping."""


class ConnectionFailed(Unavailable, ConnectionError):
    """Nobody answers at the URL, or the connection broke."""


class NotReady(Unavailable):
    """The model is known but cannot answer: not loaded yet, no longer, or its process died."""


class ServerError(TopicClientError):
    """The server failed, or answered something that is no answer."""


class ClientClosed(TopicClientError, RuntimeError):
    """The client was used after `close`."""
