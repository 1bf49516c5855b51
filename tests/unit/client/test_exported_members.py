"""The public names, pinned: adding or losing one is a decision."""

import inspect

import bertopic_client
import pytest
from bertopic_client import _exceptions


def test_public_names():
    assert sorted(bertopic_client.__all__) == [
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


def test_public_names_exist():
    assert all(hasattr(bertopic_client, name) for name in bertopic_client.__all__)


def test_every_error_is_public_and_in_the_tree():
    errors = [name for name, value in vars(_exceptions).items() if inspect.isclass(value)]
    assert set(errors) <= set(bertopic_client.__all__)
    assert all(name in (_exceptions.__doc__ or "") for name in errors)


@pytest.mark.parametrize(("client", "max_in_flight"), [("TopicClient", 4), ("AsyncTopicClient", 8)])
def test_signatures_of_the_clients(client, max_in_flight):
    assert str(inspect.signature(getattr(bertopic_client, client))) == (
        "(url: 'str | Sequence[str]' = 'grpc://localhost:8001', *, model: 'str' = 'BERTopic', "
        "timeout: 'float' = 30.0, attempt_timeout: 'float | None' = None, retries: 'int' = 3, "
        f"max_in_flight: 'int' = {max_in_flight}, tls: 'Tls | None' = None, "
        "headers: 'Mapping[str, str] | None' = None) -> 'None'"
    )


def test_both_clients_have_the_same_surface():
    def surface(client):
        return {name for name in dir(client) if not name.startswith("_")}

    assert surface(bertopic_client.AsyncTopicClient) == surface(bertopic_client.TopicClient)
