"""Topics of texts and embeddings, from a Triton server that serves a BERTopic model.

>>> from bertopic_client import TopicClient
>>> with TopicClient("grpc://localhost:8001") as client:
...     client.predict(["the graph has no cycles"]).labels
"""

from ._async_client import AsyncTopicClient
from ._client import TopicClient
from ._exceptions import (
    AccessDenied,
    ClientClosed,
    ConnectionFailed,
    InvalidInput,
    NotReady,
    ServerError,
    Timeout,
    TopicClientError,
    Unavailable,
    UnknownModel,
)
from ._prediction import Prediction, TopicAssignment
from ._security import Tls
from ._topics import Keyword, Topic

__all__ = [
    "AccessDenied",
    "AsyncTopicClient",
    "ClientClosed",
    "ConnectionFailed",
    "InvalidInput",
    "Keyword",
    "NotReady",
    "Prediction",
    "ServerError",
    "Timeout",
    "Tls",
    "Topic",
    "TopicAssignment",
    "TopicClient",
    "TopicClientError",
    "Unavailable",
    "UnknownModel",
]
