import json

import numpy as np
import pytest
from bertopic_client import ServerError, UnknownModel
from bertopic_client._address import parse
from bertopic_client._http import HEADER_LENGTH, Response, encode, error_message
from bertopic_client._http import decode as decode_from
from bertopic_client._requests import Infer, Readiness, RowLimit
from tritonclient.utils import np_to_triton_dtype


def test_encode_sends_tensors_in_binary_and_asks_for_them_in_binary():
    rows = np.array([["größe".encode()], [b""], [b"a\0b"]], object)
    message = encode(Infer("My model/1-text", {"TEXT": rows}, ("OUT",)))
    header_length = int(message.headers[HEADER_LENGTH])
    header, payload = json.loads(message.body[:header_length]), message.body[header_length:]
    assert (message.method, message.path) == ("POST", "/v2/models/My%20model%2F1-text/infer")
    assert header["inputs"] == [
        {"name": "TEXT", "shape": [3, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(payload)}}
    ]
    assert header["outputs"] == [{"name": "OUT", "parameters": {"binary_data": True}}]
    assert payload == b"\x07\0\0\0" + "größe".encode() + b"\0\0\0\0" + b"\x03\0\0\0a\0b"


def test_embeddings_are_sent_as_little_endian_float32():
    rows = np.array([[1.5, -2.0]], np.float32)
    message = encode(Infer("M", {"IN": rows}, ("OUT",)))
    assert message.body[int(message.headers[HEADER_LENGTH]) :] == rows.astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("request_", "path"), [(RowLimit("M-text"), "/v2/models/M-text/config"), (Readiness("M"), "/v2/models/M/ready")]
)
def test_encode_questions_about_a_model(request_, path):
    assert encode(request_)[:3] == ("GET", path, b"")


def test_a_version_of_a_model_is_asked_by_its_path():
    assert encode(Infer("M", {}, ("OUT",), version="2")).path == "/v2/models/M/versions/2/infer"


def decode(request, response):
    return decode_from(request, response, parse("http://localhost"), 1.0)


def answer(**tensors):
    outputs = [
        {
            "name": name,
            "datatype": np_to_triton_dtype(values.dtype),
            "shape": list(values.shape),
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in tensors.items()
    ]
    header = json.dumps({"model_name": "M", "model_version": "7", "outputs": outputs}).encode()
    return Response(200, str(len(header)), header + b"".join(values.tobytes() for values in tensors.values()))


def test_decode_tensors():
    topics, reduced = np.array([[3], [-1]], np.int32), np.arange(6, dtype=np.float32).reshape(2, 3)
    found, version = decode(Infer("M", {}, ("OUT", "REDUCED")), answer(REDUCED=reduced, OUT=topics))
    assert version == "7"
    assert list(found) == ["OUT", "REDUCED"]
    np.testing.assert_array_equal(found["OUT"], topics)
    np.testing.assert_array_equal(found["REDUCED"], reduced)


def test_decode_an_answer_that_lacks_an_output():
    with pytest.raises(ServerError, match="'M' answered without REDUCED"):
        decode(Infer("M", {}, ("REDUCED",)), answer(OUT=np.zeros((1, 1), np.int32)))


def test_decode_a_row_limit():
    config = {"name": "M", "max_batch_size": 64}
    assert decode(RowLimit("M"), Response(200, "", json.dumps(config).encode())) == 64
    config["parameters"] = {"max_rows": {"string_value": "16"}}
    assert decode(RowLimit("M"), Response(200, "", json.dumps(config).encode())) == 16


@pytest.mark.parametrize(("status", "ready"), [(200, True), (400, False), (503, False)])
def test_decode_readiness(status, ready):
    assert decode(Readiness("M"), Response(status, "", b"")) is ready


@pytest.mark.parametrize("request_", [RowLimit("M"), Infer("M", {}, ("OUT",))])
@pytest.mark.parametrize(
    "response",
    [
        Response(200, "", b"<html>hello"),
        Response(200, "", b"{}"),
        Response(200, "", b"[]"),
        Response(200, "4", b"<html>hello"),
    ],
)
def test_what_is_not_tritons_protocol_is_quoted(request_, response):
    with pytest.raises(ServerError, match="not Triton's protocol") as refused:
        decode(request_, response)
    assert repr(response.body) in str(refused.value)


def test_a_status_other_than_200_is_an_error():
    with pytest.raises(UnknownModel, match="no model 'M': nobody"):
        decode(RowLimit("M"), Response(404, "", b'{"error": "nobody"}'))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "Request for unknown model"}', "Request for unknown model"),
        (b"<html>Bad Gateway", "<html>Bad Gateway"),
        (b"[]", "[]"),
        (b"", ""),
        (b"\xff" * 500, "\ufffd" * 200),
    ],
)
def test_error_message(body, said):
    assert error_message(body) == said
