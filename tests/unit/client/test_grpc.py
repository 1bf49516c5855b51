import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from bertopic_client import ServerError, Timeout
from bertopic_client._address import parse
from bertopic_client._async_grpc import AsyncGrpcTransport
from bertopic_client._grpc import GrpcTransport, decode, decode_row_limit, encode
from bertopic_client._requests import Infer
from bertopic_client._security import Credentials
from tritonclient.grpc import service_pb2, service_pb2_grpc


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


class Slow(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers late, and knows whether its callers cancelled by then."""

    def __init__(self) -> None:
        self.calls: Queue[str] = Queue()

    def ModelInfer(self, request, context):
        time.sleep(0.5)
        self.calls.put("awaited" if context.is_active() else "cancelled")
        return service_pb2.ModelInferResponse(model_version="1")


@pytest.fixture
def slow():
    with ThreadPoolExecutor() as threads:
        servicer, server = Slow(), grpc.server(threads)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        servicer.address = parse(f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        yield servicer
        server.stop(0).wait()


NOTHING = Credentials.of(None, None, [])


def test_a_timeout_ends_the_waiting_and_not_the_call(slow):
    transport = GrpcTransport(slow.address, NOTHING)
    with pytest.raises(Timeout, match=r"'M' at grpc://.* within 0.1 s: timed out"):
        transport.send(Infer("M", {}, ()), 0.1)
    assert slow.calls.get(timeout=5) == "awaited"
    assert transport.send(Infer("M", {}, ()), 0.9).version == "1"
    transport.close()


def test_neither_a_timeout_nor_a_cancellation_cancels_the_call_of_a_task(slow):
    async def ask():
        transport = AsyncGrpcTransport(slow.address, NOTHING)
        with pytest.raises(Timeout, match=r"'M' at grpc://.* within 0.1 s: timed out"):
            await transport.send(Infer("M", {}, ()), 0.1)
        asking = asyncio.ensure_future(transport.send(Infer("M", {}, ()), 30))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        ends = [await asyncio.to_thread(slow.calls.get, timeout=5) for _ in range(2)]
        await transport.close()
        return ends

    assert asyncio.run(ask()) == ["awaited", "awaited"]
