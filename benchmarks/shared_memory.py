"""Embeddings over the wire beside embeddings through system shared memory, on one host.

    python benchmarks/shared_memory.py MODEL_REPOSITORY [--rows 1024] [--rounds 15]

One client sends the same array as the client of this project does over gRPC, as HTTP carries it, and through a
shared-memory region that Triton has been shown: the array is copied into the region, and only its name is sent.
Ways take turns, request by request, so that whatever else the machine does falls on all. Prints the
median seconds of each and how many times the wire's they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpc
import tritonclient.http as http
import tritonclient.utils.shared_memory as shm
from bertopic_server import Address, TritonServer
from bertopic_server._server import _ADMIN_HEADER
from rich.console import Console
from rich.table import Table

REGION = "embeddings"
OUTPUTS = ("OUT", "PROBABILITY")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", help="what `bertopic-inference convert` wrote")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with TritonServer(arguments.repository, Address.on_free_ports()) as server:
        seconds = _measure(server, f"{server.models[0]}-inference", arguments.rows, arguments.rounds)
    wire = np.median(seconds["gRPC"])
    table = Table("way", "ms", "times gRPC")
    for way, samples in seconds.items():
        table.add_row(way, f"{np.median(samples) * 1e3:.2f}", f"{np.median(samples) / wire:.2f}")
    Console().print(table)


def _measure(server: TritonServer, model: str, n_rows: int, n_rounds: int) -> dict[str, list[float]]:
    over_grpc = grpc.InferenceServerClient(server.address.grpc_url.removeprefix("grpc://"))
    over_http = http.InferenceServerClient(server.address.http_url.removeprefix("http://"))
    dim = over_http.get_model_metadata(model)["inputs"][0]["shape"][-1]
    array = np.random.default_rng(0).normal(size=(n_rows, dim)).astype(np.float32)
    region = shm.create_shared_memory_region(REGION, f"/bertopic-benchmark-{server.pid}", array.nbytes)
    try:
        admin = {_ADMIN_HEADER: server._admin_key}
        over_http.register_system_shared_memory(
            REGION, f"/bertopic-benchmark-{server.pid}", array.nbytes, headers=admin
        )

        def through_shared_memory() -> npt.NDArray[np.int32]:
            shm.set_shared_memory_region(region, [array])
            tensor = grpc.InferInput("IN", array.shape, "FP32")
            tensor.set_shared_memory(REGION, array.nbytes)
            return _ask(over_grpc, grpc, model, tensor)

        ways: dict[str, Callable[[], npt.NDArray[np.int32]]] = {
            "gRPC": lambda: _ask(over_grpc, grpc, model, _on_the_wire(grpc, array)),
            "HTTP": lambda: _ask(over_http, http, model, _on_the_wire(http, array)),
            "shared memory": through_shared_memory,
        }
        expected = ways["gRPC"]()
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(n_rounds):
            for way, ask in ways.items():
                started = time.perf_counter()
                topics = ask()
                seconds[way].append(time.perf_counter() - started)
                np.testing.assert_array_equal(topics, expected)
    finally:
        shm.destroy_shared_memory_region(region)
    return seconds


def _on_the_wire(module: Any, array: npt.NDArray[np.float32]) -> Any:
    return module.InferInput("IN", list(array.shape), "FP32").set_data_from_numpy(array)


def _ask(client: Any, module: Any, model: str, tensor: Any) -> npt.NDArray[np.int32]:
    wanted = [module.InferRequestedOutput(name) for name in OUTPUTS]
    return client.infer(model, [tensor], outputs=wanted).as_numpy("OUT")


if __name__ == "__main__":
    main()
