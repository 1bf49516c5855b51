import numpy as np
import pytest
import tritonclient.grpc as triton
from bertopic_client import ServerError
from bertopic_client._grpc import decode, decode_row_limit, encode
from bertopic_client._requests import Infer
from tritonclient.grpc import service_pb2


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        (np.zeros((2, 3), np.float32), "FP32"),
        (np.array([["größe".encode()], [b""]], object), "BYTES"),
        (np.empty(0, np.int32), "INT32"),
    ],
    ids=["embeddings", "texts", "all topics"],
)
def test_encode(values, datatype):
    call = encode(Infer("M", {"X": values}, ("OUT", "PROBABILITY"), version="2"))
    [tensor] = call["inputs"]
    assert (call["model_name"], call["model_version"]) == ("M", "2")
    assert (tensor.name(), tensor.datatype(), tuple(tensor.shape())) == ("X", datatype, values.shape)
    assert [output.name() for output in call["outputs"]] == ["OUT", "PROBABILITY"]


def answer(**tensors):
    response = service_pb2.ModelInferResponse(model_version="7")
    for name, values in tensors.items():
        response.outputs.add(name=name, datatype=triton.np_to_triton_dtype(values.dtype), shape=values.shape)
        response.raw_output_contents.append(values.tobytes())
    return triton.InferResult(response)


def test_an_answer_is_collected_by_name():
    topics, probabilities = np.array([[3], [-1]], np.int32), np.array([[0.5], [0]], np.float32)
    found, version = decode(Infer("M", {}, ("OUT", "PROBABILITY")), answer(PROBABILITY=probabilities, OUT=topics))
    assert version == "7"
    assert list(found) == ["OUT", "PROBABILITY"]
    np.testing.assert_array_equal(found["OUT"], topics)
    np.testing.assert_array_equal(found["PROBABILITY"], probabilities)


@pytest.mark.parametrize(
    ("max_batch_size", "parameters", "limit"),
    [(65536, {"max_rows": "64"}, 64), (64, {"capacity": "512"}, 64), (0, {}, 1)],
    ids=["of its own", "the batch's", "no batches"],
)
def test_a_row_limit(max_batch_size, parameters, limit):
    response = service_pb2.ModelConfigResponse()
    response.config.max_batch_size = max_batch_size
    for name, value in parameters.items():
        response.config.parameters[name].string_value = value
    assert decode_row_limit(response) == limit


def test_an_answer_that_lacks_an_output():
    with pytest.raises(ServerError, match="'M' answered without PROBABILITY"):
        decode(Infer("M", {}, ("OUT", "PROBABILITY")), answer(OUT=np.zeros((1, 1), np.int32)))
