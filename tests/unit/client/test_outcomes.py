"""Triton's own words, as recorded from a running server, and what they come to."""

import ssl
from dataclasses import replace
from http.client import BadStatusLine, RemoteDisconnected

import numpy as np
import pytest
from bertopic_client import (
    AccessDenied,
    ConnectionFailed,
    InvalidInput,
    NotReady,
    ServerError,
    Timeout,
    Unavailable,
    UnknownModel,
)
from bertopic_client._address import parse
from bertopic_client._outcomes import VersionGone, from_connection, from_grpc, from_http
from bertopic_client._requests import Infer, Readiness
from tritonclient.utils import InferenceServerException

ADDRESS = parse("grpc://localhost:8001")
REQUEST = Infer("BERTopic-inference", {"IN": np.zeros((64, 4), np.float32)}, ("OUT",), range(128, 192))

SHAPE = (
    "[request id: <id_unknown>] unexpected shape for input 'IN' for model 'BERTopic-inference'. Expected [-1,8], "
    "got [64,4]. NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be "
    "prepended to each input shape."
)
REFUSED_CONNECTION = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: "
    "Connection refused"
)


@pytest.mark.parametrize(
    ("grpc_code", "http_status", "said", "kind"),
    [
        ("INVALID_ARGUMENT", 400, SHAPE, InvalidInput),
        ("INVALID_ARGUMENT", 400, "in ensemble 'BERTopic-inference', row 3 holds NaN or Inf", InvalidInput),
        ("INVALID_ARGUMENT", 400, "incomplete string data for inference input 'TEXT', expecting 2 bytes", Unavailable),
        ("NOT_FOUND", 404, "Request for unknown model: 'BERTopic-inference' is not found", UnknownModel),
        ("NOT_FOUND", 404, "Request for unknown model: 'BERTopic-inference' has no available versions", NotReady),
        ("UNAVAILABLE", 503, "Server not ready", NotReady),
        ("UNAVAILABLE", 503, "[request id: <id_unknown>] Exceeds maximum queue size", Unavailable),
        ("UNAVAILABLE", 503, "Server is stopping, scheduler for model has stopped accepting new", Unavailable),
        ("INTERNAL", 500, "in ensemble 'X', Stub process 'BERTopic-umap_0_0' is not healthy.", NotReady),
        ("UNAVAILABLE", 503, "Stub process 'BERTopic-bert_0_0' is not healthy.", NotReady),
        ("INTERNAL", 500, "Failed to obtain the health mutex.", NotReady),
        ("UNAVAILABLE", 503, "Request for unknown model: 'BERTopic-umap' version 1 is not at ready state", NotReady),
        ("INTERNAL", 500, "RuntimeError: Broken pipe", ServerError),
    ],
    ids=[
        "wrong dimension",
        "NaN",
        "another's lie",
        "unknown model",
        "unloaded model",
        "starting server",
        "full queue",
        "stopping server",
        "dead stub",
        "dead stub of a model that this one calls",
        "dying stub",
        "model being unloaded",
        "words of a connection in a model's own error",
    ],
)
def test_both_protocols_come_to_the_same_error(grpc_code, http_status, said, kind):
    grpc_error = InferenceServerException(said, f"StatusCode.{grpc_code}")
    outcomes = [
        from_grpc(grpc_error, REQUEST, ADDRESS, 30.0),
        from_http(http_status, said, REQUEST, ADDRESS, 30.0),
    ]
    assert [type(outcome) for outcome in outcomes] == [kind, kind]
    assert str(outcomes[0]) == str(outcomes[1])
    assert "BERTopic-inference" in str(outcomes[0])
    assert "grpc://localhost:8001" in str(outcomes[0])


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        ("UNAVAILABLE", REFUSED_CONNECTION, ConnectionFailed),
        ("UNAVAILABLE", "Stream removed (Socket closed)", ConnectionFailed),
        ("UNAVAILABLE", "errors resolving no-such-host.invalid:8001: Domain name not found", ConnectionFailed),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Timeout),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", InvalidInput),
        ("RESOURCE_EXHAUSTED", "quota", Unavailable),
        ("UNIMPLEMENTED", "unknown service", ServerError),
        ("CANCELLED", "CANCELLED", Unavailable),
        ("UNAUTHENTICATED", "no token", AccessDenied),
        ("PERMISSION_DENIED", "not yours", AccessDenied),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc-protocol-x'", AccessDenied),
        ("UNKNOWN", "Stream removed", ConnectionFailed),
        ("INTERNAL", "Received RST_STREAM with error code 2", ConnectionFailed),
    ],
)
def test_grpc(code, said, kind):
    outcome = from_grpc(InferenceServerException(said, f"StatusCode.{code}"), REQUEST, ADDRESS, 30.0)
    assert type(outcome) is kind
    assert said.rstrip(".") in str(outcome)


def test_an_exception_of_tritonclient_without_a_status_is_a_server_error():
    assert type(from_grpc(InferenceServerException("odd"), REQUEST, ADDRESS, 30.0)) is ServerError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (413, InvalidInput),
        (429, Unavailable),
        (502, Unavailable),
        (504, Timeout),
        (401, AccessDenied),
        (403, AccessDenied),
        (302, ServerError),
    ],
)
def test_statuses_of_proxies(status, kind):
    outcome = from_http(status, "", REQUEST, ADDRESS, 30.0)
    assert type(outcome) is kind
    assert f"HTTP status {status}" in str(outcome)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (TimeoutError("timed out"), Timeout, "within 2.5 s"),
        (ConnectionRefusedError(111, "Connection refused"), ConnectionFailed, "Connection refused"),
        (RemoteDisconnected("Remote end closed connection"), ConnectionFailed, "Remote end closed connection"),
        (ssl.SSLError(1, "certificate verify failed"), ConnectionFailed, "certificate verify failed"),
        (BadStatusLine("\x00\x00\x18\x04"), ConnectionFailed, "BadStatusLine, not an HTTP answer"),
    ],
    ids=["timeout", "refused", "closed", "certificate", "gRPC port"],
)
def test_connections(error, kind, said):
    outcome = from_connection(error, REQUEST, parse("http://localhost:8000"), 2.5)
    assert type(outcome) is kind
    assert said in str(outcome)
    assert "\x00" not in str(outcome)


def test_servers_that_answer_everything_with_400_are_understood_by_their_words():
    said = "Request for unknown model: 'BERTopic-inference' is not found"
    assert type(from_http(400, said, REQUEST, ADDRESS, 30.0)) is UnknownModel


def test_rows_are_counted_from_the_start_of_the_input():
    outcome = from_http(400, "in ensemble 'X', row 3 of the embeddings holds NaN.", REQUEST, ADDRESS, 30.0)
    assert str(outcome) == (
        "'BERTopic-inference' at grpc://localhost:8001 refused rows 128 to 191: row 131 of the embeddings holds NaN."
    )
    assert outcome.row == 131


@pytest.mark.parametrize(
    ("rows", "said", "row"),
    [
        ([5, 8, 13], "row 1 holds NaN", 8),
        ([5, 8, 13], "row 3 holds NaN", None),
        ([5, 8, 13], "unexpected shape", None),
        ([8], "unexpected shape", 8),
        ((), "row 0 holds NaN", None),
    ],
    ids=["rows with gaps", "no row of the request", "no row named", "the only row", "no rows"],
)
def test_the_row_to_blame(rows, said, row):
    assert from_http(400, said, replace(REQUEST, rows=rows), ADDRESS, 30.0).row == row


@pytest.mark.parametrize(("code", "said"), [("NOT_FOUND", "version 2 is not found"), ("UNAVAILABLE", "is not ready")])
def test_a_version_that_was_asked_for_and_is_gone(code, said):
    error = InferenceServerException(said, f"StatusCode.{code}")
    assert type(from_grpc(error, replace(REQUEST, version="2"), ADDRESS, 30.0)) is VersionGone


def test_what_concerns_only_triton_is_left_out():
    assert str(from_http(400, SHAPE, Readiness("M"), ADDRESS, 30.0)) == (
        "'M' at grpc://localhost:8001 refused: unexpected shape for input 'IN' for model 'BERTopic-inference'. "
        "Expected [-1,8], got [64,4]."
    )


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (InvalidInput, ValueError),
        (UnknownModel, LookupError),
        (Timeout, TimeoutError),
        (ConnectionFailed, ConnectionError),
        (ConnectionFailed, Unavailable),
        (NotReady, Unavailable),
    ],
)
def test_errors_are_also_what_python_calls_them(kind, builtin):
    assert issubclass(kind, builtin)
    assert str(kind("said")) == "said"
