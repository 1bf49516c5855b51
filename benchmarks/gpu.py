"""UMAP and the embedder on a GPU: beside cuML and sentence-transformers, and against what the device could do.

    python benchmarks/gpu.py [--training-rows 18000 500000 5000000] [--repository DIR] [--out benchmarks/results]

Sections, each skipped with a line that says why where something for it is missing. What one has measured is kept
whatever happens to the next:

- floors: bytes a second that a copy on the device moves, and operations a second of a product of large matrices in
  half precision;
- engine: embeddings to reduced coordinates at each number of training rows and each batch, beside cuML's transform of
  the same arrays (with the epochs and the random numbers that cuML takes by itself), and as a share of the floor: the
  longer of reading all training rows once in half precision, and of the operations of comparing with all of them;
- agreement: topics of the CPU's engine, with exact neighbours, and of the GPU's, on held-out rows;
- embedder: sentences of 14 tokens a second: fp32 and fp16 by CUDA, fp16 by TensorRT, and sentence-transformers in half
  precision on the same GPU;
- served: a repository that `convert --device gpu` wrote, by tritonserver, asked by four processes: 64 requests of
  1,024 embeddings in flight, beside UMAP on the GPU and HDBSCAN on the CPU, each alone and in process; and 64 requests
  of 64 sentences, beside the same embedder in process.

Training rows are synthetic (see `_models.py`): what a search by comparison costs does not depend on them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from _measure import Timing, in_turn, machine
from _models import N_NEIGHBORS, SyntheticModel, make_synthetic, synthesize
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

TRAINING_ROWS = (18_000, 500_000, 5_000_000)
BATCHES = (1, 64, 1_024, 4_096, 16_384, 65_536)
REPEATS = 5
TOPICS, COMPONENTS, CENTERS = 500, 5, 1_024
# 12 words and the two tokens that every text has.
SENTENCE = "the quick brown fox jumps over the lazy dog near the river"
SENTENCES = 16_384
IN_FLIGHT, ROWS_A_REQUEST, SENTENCES_A_REQUEST, SERVED_SECONDS = 64, 1_024, 64, 10.0
# Processes that share out what is in flight, so that none of them is what is measured.
CLIENTS = 4
# TensorRT builds its engines meanwhile.
READY_SECONDS = 1_800.0
# (training rows, batch) -> rows a second on one H100
TARGETS = {(500_000, 4_096): 300_000, (18_000, 4_096): 1_000_000}
console = Console(width=120)

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Floors:
    """What the device reached in this run."""

    bytes_per_second: float
    operations_per_second: float

    def seconds(self, training_rows: int, batch: int, dim: int) -> float:
        """No search by comparison with every training row takes less."""
        return max(
            2 * training_rows * dim / self.bytes_per_second,
            2 * batch * training_rows * dim / self.operations_per_second,
        )


@dataclass(frozen=True)
class Measured:
    """Embeddings to reduced coordinates."""

    training_rows: int
    batch: int
    rows_per_second: float
    over_cuml: float | None
    share_of_floor: float | None


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    measured = Sections({"date": time.strftime("%Y-%m-%d"), "machine": machine()}, arguments.out)
    floors: Floors | None = None
    with measured.section("floors") as results:
        results["device"], floors = _device(), _floors()
        results["floors"] = asdict(floors)
        console.print(
            f"{results['device']}: {floors.bytes_per_second / 1e12:.2f} TB/s, "
            f"{floors.operations_per_second / 1e12:.0f} TFLOP/s"
        )
    for training_rows in arguments.training_rows:
        with measured.section(f"engine, {training_rows:,} training rows") as results:
            rates = _engine(training_rows, floors)
            _print_engine(rates)
            results.setdefault("engine", []).extend(asdict(rate) for rate in rates)
    with measured.section("agreement") as results:
        results["agreement"] = _agreement(arguments.folder)
        console.print(f"the same topic on CPU and GPU: {results['agreement']:.2%}")
    with measured.section("embedder") as results:
        results["sentences_per_second"] = _embedder(arguments.folder)
        console.print(results["sentences_per_second"])
    if arguments.repository:
        with measured.section("served") as results:
            results["served"] = _served(arguments.repository, results.get("sentences_per_second", {}))
            console.print(results["served"])
    if measured.failed:
        raise SystemExit(f"failed: {'; '.join(measured.failed)}")


@dataclass
class Sections:
    """What was measured so far, written to `out` after each section."""

    results: dict[str, Any]
    out: Path | None
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def section(self, name: str) -> Iterator[dict[str, Any]]:
        """Measure what is inside, or say what is missing or went wrong."""
        from bertopic_embedder import EmbedderError
        from bertopic_engine import DeviceError

        try:
            yield self.results
        except (ImportError, DeviceError, EmbedderError) as error:
            console.print(f"{name}: skipped, {error}", markup=False)
        except Exception:  # from a dozen libraries, on a machine that is lent by the minute
            console.print_exception()
            self.failed.append(name)
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "gpu.json").write_text(json.dumps(self.results, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training-rows", type=int, nargs="+", default=TRAINING_ROWS)
    parser.add_argument("--repository", type=Path, help="written by convert --device gpu; served only if given")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="keeps what is made once")
    parser.add_argument("--out", type=Path, help="folder for gpu.json")
    return parser.parse_args()


def _device() -> str:
    import cupy

    name: str = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return name


def _floors() -> Floors:
    import cupy

    source = cupy.ones(2**30, cupy.uint8)
    target = cupy.empty_like(source)
    # Of random numbers, which heat the device as real ones do.
    matrix = cupy.asarray(np.random.default_rng(0).standard_normal((8_192, 8_192), np.float32).astype(np.float16))
    product = cupy.empty_like(matrix)
    timings = in_turn(
        1,
        REPEATS,
        {
            "copy": _finished(lambda: cupy.copyto(target, source)),
            "product": _finished(lambda: cupy.matmul(matrix, matrix, out=product)),
        },
    )
    copy, multiply = (min(timings[name].seconds) for name in ("copy", "product"))
    return Floors(2 * source.nbytes / copy, 2 * 8_192**3 / multiply)


def _finished(call: Callable[[], Any]) -> Callable[[], None]:
    """The call, and what it started on the device."""
    import cupy

    def until_done() -> None:
        call()
        cupy.cuda.Device().synchronize()

    return until_done


def _engine(training_rows: int, floors: Floors | None) -> list[Measured]:
    import cupy
    from bertopic_engine.cuda import CudaUmapTransform

    umap, rows = _umap(training_rows)
    transforms: dict[str, Any] = {"ours": CudaUmapTransform(umap)}
    try:
        transforms["cuml"] = _cuml(umap)
    except ImportError as error:
        console.print(f"cuML: skipped, {error}", markup=False)
    measured = []
    for batch in BATCHES:
        x = np.resize(rows, (batch, rows.shape[1]))
        timings = in_turn(batch, REPEATS, {name: _call(t.transform, x) for name, t in transforms.items()})
        seconds = float(np.median(timings["ours"].seconds))
        measured.append(
            Measured(
                training_rows,
                batch,
                batch / seconds,
                _ratio(timings),
                floors and floors.seconds(training_rows, batch, rows.shape[1]) / seconds,
            )
        )
    del transforms
    cupy.get_default_memory_pool().free_all_blocks()
    return measured


def _call(transform: Callable[[Rows], Rows], x: Rows) -> Callable[[], Rows]:
    return lambda: transform(x)


def _ratio(timings: dict[str, Timing]) -> float | None:
    if "cuml" not in timings:
        return None
    return timings["cuml"].us_per_row / timings["ours"].us_per_row


def _umap(training_rows: int) -> tuple[Any, Rows]:
    """A UmapTransform of synthetic training rows, and rows that are not among them."""
    from bertopic_engine import UmapTransform
    from bertopic_engine.neighbors import ExactNeighbors
    from bertopic_engine.repulsion import centroids
    from bertopic_engine.umap import UmapParameters

    embeddings, reduced = synthesize(SyntheticModel(training_rows, TOPICS, COMPONENTS, Path()))
    held_out = len(embeddings) - training_rows
    embedding = np.ascontiguousarray(reduced[held_out:])
    # a and b are those of min_dist = 0 and spread = 1.
    parameters = UmapParameters(N_NEIGHBORS, 1.9328083979306352, 0.7904949733907061, 100, (1, 2, 3))
    umap = UmapTransform(
        embedding, ExactNeighbors(embeddings[held_out:], "cosine"), parameters, centroids(embedding, CENTERS)
    )
    return umap, embeddings[:held_out]


def _cuml(umap: Any) -> Any:
    import cuml  # noqa: F401
    import cupy
    from bertopic_engine.cuml import LAYOUT, CumlTransform

    # cuML has CuPy take memory from RMM, which asks the driver each time: not for our share of the work.
    cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
    transform = CumlTransform(
        umap.layout_arrays()["embedding"], umap.neighbors.rows(), "cosine", umap.parameters._replace(layout=LAYOUT)
    )
    model, _ = transform._on_gpu
    # A seed has cuML add up in a fixed order; it takes fewer epochs for large batches unless told how many.
    model.random_state = model.n_epochs = None
    return transform


def _print_engine(measured: list[Measured]) -> None:
    table = Table(title="embeddings to reduced coordinates")
    for column in ("training rows", "batch", "rows/s", "over cuML", "of the floor", "target"):
        table.add_column(column, justify="right")
    for m in measured:
        target = TARGETS.get((m.training_rows, m.batch))
        table.add_row(
            f"{m.training_rows:,}",
            f"{m.batch:,}",
            f"{m.rows_per_second:,.0f}",
            "" if m.over_cuml is None else f"{m.over_cuml:.1f}x",
            "" if m.share_of_floor is None else f"{m.share_of_floor:.0%}",
            "" if target is None else f"{target:,}",
        )
    console.print(table)


def _agreement(folder: Path) -> float:
    """Share of held-out rows with the same topic."""
    from bertopic_engine import TopicModel
    from bertopic_engine.cuda import CudaUmapTransform
    from bertopic_engine.neighbors import ExactNeighbors

    model = SyntheticModel(TRAINING_ROWS[0], TOPICS, COMPONENTS, folder / "synthetic")
    make_synthetic([model], console)
    loaded, rows = model.load(), np.load(model.held_out)
    exact = loaded.umap.replaced(neighbors=ExactNeighbors(loaded.umap.neighbors.rows(), "cosine"))
    on_cpu = TopicModel(exact, loaded.topics).predict(rows).topics
    on_gpu = TopicModel(CudaUmapTransform(exact), loaded.topics).predict(rows).topics
    return float((on_cpu == on_gpu).mean())


def _embedder(folder: Path) -> dict[str, float]:
    """Sentences a second, by what embeds them."""
    import torch
    from bertopic_embedder import Embedder, export
    from bertopic_embedder._encoder import OnnxEncoder
    from bertopic_server._demo import _embedder as minilm
    from sentence_transformers import SentenceTransformer

    ways: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "fp16"):
        exported = folder / f"minilm_{precision}_gpu"
        if not exported.is_dir():
            unfinished = folder / f"{exported.name}.unfinished"
            export(str(minilm()), unfinished, precision=precision, device="gpu")
            unfinished.rename(exported)
        embedder = Embedder.load(exported, gpu=0)
        ways[f"{precision}, CUDA"] = _embed(embedder)
    try:
        ways["fp16, TensorRT"] = _embed(Embedder(embedder.tokenizer, OnnxEncoder(_tensorrt(exported))))
    except ImportError as error:
        console.print(f"TensorRT: skipped, {error}", markup=False)
    model = SentenceTransformer(str(minilm()), device="cuda").half()

    def peer() -> None:
        model.encode([SENTENCE] * SENTENCES, batch_size=1_024, convert_to_numpy=True, show_progress_bar=False)
        torch.cuda.synchronize()

    ways["sentence-transformers, fp16"] = peer
    timings = in_turn(SENTENCES, REPEATS, ways)
    return {name: round(1e6 / timing.us_per_row, 1) for name, timing in timings.items()}


def _embed(embedder: Any) -> Callable[[], Any]:
    return lambda: embedder.encode([SENTENCE] * SENTENCES)


def _tensorrt(exported: Path) -> Any:
    """A session with the options that `convert --device gpu` writes for Triton."""
    import onnxruntime
    from bertopic_converters._gpu import Network, tensorrt_options

    provider = "TensorrtExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise ImportError(f"onnxruntime has no {provider}")
    longest = json.loads((exported / "embedder.json").read_text())["buckets"][-1]
    options = {"trt_fp16_enable": "1"} | tensorrt_options(Network(longest, "fp16"), str(exported / "tensorrt"))
    session = onnxruntime.InferenceSession(
        exported / "model.onnx", providers=[(provider, options), "CUDAExecutionProvider"]
    )
    if provider not in session.get_providers():
        raise ImportError("onnxruntime could not load TensorRT; its warning says why")
    return session


def _served(repository: Path, sentences_per_second: dict[str, float]) -> dict[str, float]:
    """Rows and sentences a second through tritonserver, and their shares of what the same work does in process."""
    import bertopic_engine
    from bertopic_server import Address, TritonServer

    x = _new_rows(repository, IN_FLIGHT * ROWS_A_REQUEST)
    model = bertopic_engine.load(repository, device=0)
    reduced = model.umap.transform(x)
    timings = in_turn(
        len(x),
        REPEATS,
        {"UMAP": _call(model.umap.transform, x), "HDBSCAN": lambda: model.topics.predict(reduced)},
    )
    rates = {name: 1e6 / timing.us_per_row for name, timing in timings.items()}
    with TritonServer(repository, Address.on_free_ports(), ready_timeout=READY_SECONDS) as server:
        rates["embeddings served"] = _load(server.address.grpc_url, np.split(x, IN_FLIGHT))
        texts = [[SENTENCE] * SENTENCES_A_REQUEST] * IN_FLIGHT
        rates["texts served"] = _load(server.address.grpc_url, texts)
    rates["embeddings: share of the slower"] = rates["embeddings served"] / min(rates["UMAP"], rates["HDBSCAN"])
    by_triton = 'backend: "onnxruntime"' in (repository / "BERTopic-bert" / "config.pbtxt").read_text()
    in_process = sentences_per_second.get("fp16, TensorRT" if by_triton else "fp16, CUDA")
    if in_process:
        rates["texts: share of the embedder"] = rates["texts served"] / in_process
    return rates


def _new_rows(repository: Path, n_rows: int) -> Rows:
    """Rows that lie among the training rows as new texts do."""
    from bertopic_converters._fidelity import surrogates
    from bertopic_engine.neighbors import ExactNeighbors, load_neighbors

    rows = load_neighbors(repository / "BERTopic-umap" / "1").rows()
    rows = rows[np.isfinite(rows).all(axis=1)]
    return surrogates(rows, ExactNeighbors(rows, "euclidean"), N_NEIGHBORS, n_rows)


def _load(url: str, requests: Sequence[Any]) -> float:
    """Rows a second, each request sent again as soon as it is answered."""
    context = get_context("spawn")
    shares = [requests[i::CLIENTS] for i in range(CLIENTS)]
    with ProcessPoolExecutor(CLIENTS, context, _share, (context.Barrier(CLIENTS),)) as clients:
        return sum(clients.map(_client, [url] * CLIENTS, shares))


def _share(barrier: Barrier) -> None:
    global together
    together = barrier


def _client(url: str, requests: Sequence[Any]) -> float:
    return asyncio.run(_ask_on(url, requests))


async def _ask_on(url: str, requests: Sequence[Any]) -> float:
    from bertopic_client import AsyncTopicClient

    answered = 0

    async with AsyncTopicClient(url, max_in_flight=len(requests)) as client:
        await asyncio.gather(*(client.predict(request) for request in requests))
        together.wait()
        started = time.perf_counter()

        async def ask(request: Any) -> None:
            nonlocal answered
            while time.perf_counter() - started < SERVED_SECONDS:
                await client.predict(request)
                answered += len(request)

        await asyncio.gather(*(ask(request) for request in requests))
        return answered / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
