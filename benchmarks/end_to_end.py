"""Texts and embeddings to topics, at several concurrencies, beside everything else one could run.

    python benchmarks/end_to_end.py [--texts file.jsonl] [--seconds 10] [--out benchmarks/results]

Trains a BERTopic model (on docstring sentences, or on --texts), converts and serves it, and measures in
turn, on the same machine and the same held-out rows:

- this server, one row a request, over HTTP, with `concurrency` requests in flight;
- `BERTopic.transform` in process, `concurrency` rows a call, which is kinder to it than one row a call;
- BERTopic behind FastAPI, one row a request, `concurrency` requests in flight;
- for text, the limit: bare ONNX Runtime in process with `concurrency` texts in hand, no topics, every
  way of splitting them over calls, sessions and threads, of which the fastest counts;
- for embeddings, the limit: an ensemble of two python models that compute nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _load import Measured, closed_loop, post
from _models import distinct_texts
from bertopic_server import Address, TritonServer
from bertopic_server._demo import _convert, _embedder, _split, _train
from bertopic_server._demo.corpus import docstring_summaries
from rich.console import Console
from rich.table import Table

CONCURRENCIES = (1, 32, 128)
WARM_UP = 2.0
SERVER, TRANSFORM, FASTAPI = "this server", "BERTopic.transform", "BERTopic behind FastAPI"
BARE, NO_OP = "bare ONNX Runtime (limit)", "no-op ensemble (limit)"
console = Console(width=120)


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model, repository, texts = _model(arguments.texts, arguments.column, arguments.folder)
    embeddings = _embeddings(texts)
    results: dict[str, dict[str, dict[int, Measured]]] = {"texts": {}, "embeddings": {}}

    def record(kind: str, who: str, measure: Callable[[int], Measured]) -> None:
        console.print(f"measuring {kind}: {who}")
        results[kind][who] = {concurrency: measure(concurrency) for concurrency in CONCURRENCIES}

    def over_http(url: str, requests: list[bytes]) -> Callable[[int], Measured]:
        return lambda concurrency: closed_loop(url, requests, concurrency, seconds=arguments.seconds, warm_up=WARM_UP)

    def in_process(run: Callable[[int, int], None]) -> Callable[[int], Measured]:
        return lambda concurrency: _in_process(run, concurrency, len(texts), arguments.seconds)

    _report_padding(repository, texts)
    with TritonServer(repository, Address.on_free_ports()) as server:
        url = server.address.http_url
        record("texts", SERVER, over_http(url, _text_requests(url, texts)))
        record("embeddings", SERVER, over_http(url, _embedding_requests(url, embeddings)))
    with _no_op_repository(embeddings.shape[1]) as folder, _bare_triton(folder) as url:
        record("embeddings", NO_OP, over_http(url, _embedding_requests(url, embeddings)))
    for way, run in _onnxruntime_ways(repository, texts):
        record("texts", f"{BARE}: {way}", in_process(run))
    with _fastapi(model) as url:
        bodies = [json.dumps({"text": text}).encode() for text in texts]
        record(
            "texts",
            FASTAPI,
            over_http(url, [post(f"{url}/text", body, Content_Type="application/json") for body in bodies]),
        )
        bodies = [json.dumps({"embedding": row.tolist()}).encode() for row in embeddings]
        record(
            "embeddings",
            FASTAPI,
            over_http(url, [post(f"{url}/embedding", body, Content_Type="application/json") for body in bodies]),
        )
    transform = _transform(model)
    record("texts", TRANSFORM, in_process(lambda start, stop: transform(texts[start:stop], None)))
    record(
        "embeddings", TRANSFORM, in_process(lambda start, stop: transform(texts[start:stop], embeddings[start:stop]))
    )
    _keep_fastest(results["texts"])
    _report(results, arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help=".txt, .jsonl or .csv; docstrings of installed packages if absent")
    parser.add_argument("--column", default="text")
    parser.add_argument("--seconds", type=float, default=10.0, help="per figure")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="keeps trained and converted models")
    parser.add_argument("--out", type=Path, help="folder for results.json and plots")
    return parser.parse_args()


def _model(path: Path | None, column: str, folder: Path) -> tuple[Path, Path, list[str]]:
    """Trained model, converted repository, held-out texts."""
    texts = distinct_texts(path, column) if path else docstring_summaries(Path(np.__file__).parents[1], 13_000)
    training, held_out = _split(texts)
    work = folder / (path.stem if path else "docstrings")
    work.mkdir(parents=True, exist_ok=True)
    model, repository = work / "bertopic.pickle", work / "model_repository"
    if not model.is_file():
        _train(training, _embedder(), model, console)
    if not repository.is_dir():
        _convert(model, _embedder(), repository, console)
    return model, repository, held_out


def _embeddings(texts: list[str]) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(_embedder()), device="cpu").encode(texts)


def _text_requests(url: str, texts: list[str]) -> list[bytes]:
    target = f"{url}/v2/models/BERTopic-text/infer"
    return [_binary_request(target, "TEXT", "BYTES", [1, 1], _length_prefixed(text.encode())) for text in texts]


def _embedding_requests(url: str, embeddings: Any) -> list[bytes]:
    target = f"{url}/v2/models/BERTopic-inference/infer"
    return [_binary_request(target, "IN", "FP32", [1, len(row)], row.astype("<f4").tobytes()) for row in embeddings]


def _length_prefixed(text: bytes) -> bytes:
    return len(text).to_bytes(4, "little") + text


def _binary_request(target: str, name: str, datatype: str, shape: list[int], data: bytes) -> bytes:
    header = json.dumps(
        {
            "inputs": [
                {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
            ],
            "outputs": [{"name": "OUT", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return post(target, header + data, Inference_Header_Content_Length=str(len(header)))


def _in_process(run: Callable[[int, int], None], rows: int, available: int, seconds: float) -> Measured:
    """Calls of `rows` rows each, one after another."""
    calls: list[float] = []
    begin = time.perf_counter() + WARM_UP
    start = 0
    while (called := time.perf_counter()) < begin + seconds or len(calls) < 3:
        run(start, start + rows)
        start = start + rows if start + 2 * rows <= available else 0
        if called >= begin:
            calls.append(time.perf_counter() - called)
    p50, p99 = np.percentile(calls, [50, 99]) * 1e3
    return Measured(rows * len(calls) / sum(calls), float(p50), float(p99))


_NO_OP_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = __import__("json").loads(args["model_config"])
        (self.input,), (output,) = config["input"], config["output"]
        self.name, self.columns = output["name"], int(output["dims"][0])
        self.dtype = pb_utils.triton_string_to_numpy(output["data_type"])

    def execute(self, requests):
        rows = [len(pb_utils.get_input_tensor_by_name(r, self.input["name"]).as_numpy()) for r in requests]
        zeros = np.zeros((sum(rows), self.columns), self.dtype)
        stops = np.cumsum(rows)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(self.name, zeros[stop - n : stop])])
            for n, stop in zip(rows, stops)
        ]
"""


@contextmanager
def _no_op_repository(dim: int) -> Iterator[Path]:
    """The models of `BERTopic-inference`, of the same names and tensors, with nothing inside."""
    embedding = f'{{ name: "IN" data_type: TYPE_FP32 dims: [ {dim} ] }}'
    reduced = '{ name: "REDUCED" data_type: TYPE_FP32 dims: [ 5 ] }'
    topic = '{ name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] }'
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for model, given, answer in (("umap", embedding, reduced), ("hdbscan", reduced, topic)):
            version = root / f"BERTopic-{model}" / "1"
            version.mkdir(parents=True)
            (version / "model.py").write_text(_NO_OP_MODEL)
            (version.parent / "config.pbtxt").write_text(
                f'name: "BERTopic-{model}" backend: "python" max_batch_size: 1024 input {given} output {answer} '
                f"instance_group {{ count: 1 kind: KIND_CPU }} dynamic_batching {{}}"
            )
        (root / "BERTopic-inference" / "1").mkdir(parents=True)
        (root / "BERTopic-inference" / "config.pbtxt").write_text(
            f'name: "BERTopic-inference" platform: "ensemble" max_batch_size: 1024 '
            f"input {embedding} output {topic} "
            + textwrap.dedent(
                """
                ensemble_scheduling {
                  step { model_name: "BERTopic-umap" model_version: -1
                         input_map { key: "IN" value: "IN" } output_map { key: "REDUCED" value: "REDUCED" } }
                  step { model_name: "BERTopic-hdbscan" model_version: -1
                         input_map { key: "REDUCED" value: "REDUCED" } output_map { key: "OUT" value: "OUT" } }
                }
                """
            )
        )
        yield root


@contextmanager
def _bare_triton(repository: Path) -> Iterator[str]:
    """A tritonserver over models that were not converted, started as `serve` starts it."""
    from bertopic_server._triton import find_triton

    address = Address.on_free_ports()
    with tempfile.TemporaryDirectory() as workspace:
        triton = find_triton()
        backends = triton.assemble_backends(Path(workspace) / "backends")
        process = subprocess.Popen(
            [
                str(triton.binary),
                f"--model-repository={repository}",
                *([f"--backend-directory={backends}"] if backends else []),
                *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
                f"--http-port={address.http_port}",
                f"--grpc-port={address.grpc_port}",
                f"--metrics-port={address.metrics_port}",
            ],
            env=triton.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _await(lambda: _answers(f"{address.http_url}/v2/health/ready"), process)
            yield address.http_url
        finally:
            process.terminate()
            process.wait()


_APP = """
import sys
import joblib, numpy as np
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = joblib.load(sys.argv[1])
encoder = SentenceTransformer(sys.argv[2], device="cpu")
app = FastAPI()


class Text(BaseModel):
    text: str


class Embedding(BaseModel):
    embedding: list[float]


def answer(text, embedding):
    topics, _ = model.transform([text], embedding)
    return {"topic": int(topics[0])}


@app.get("/ready")
def ready():
    return {}


# One after another: numba's thread pools, under umap-learn, must not be entered by two threads at once.
@app.post("/text")
async def from_text(request: Text):
    return answer(request.text, encoder.encode([request.text], show_progress_bar=False))


@app.post("/embedding")
async def from_embedding(request: Embedding):
    return answer("", np.array([request.embedding], dtype=np.float32))


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), log_level="warning")
"""


@contextmanager
def _fastapi(model: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app.py"
        app.write_text(_APP)
        process = subprocess.Popen([sys.executable, str(app), str(model), str(_embedder()), str(port)])
        try:
            _await(lambda: _answers(f"http://127.0.0.1:{port}/ready"), process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _answers(url: str) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _await(ready: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("a server to compare with did not start")
        time.sleep(0.2)


def _transform(model: Path) -> Callable[[list[str], Any], Any]:
    import joblib
    from bertopic.backend._utils import select_backend
    from sentence_transformers import SentenceTransformer

    topic_model = joblib.load(model)
    topic_model.embedding_model = select_backend(SentenceTransformer(str(_embedder()), device="cpu"))
    # Its fastest configuration: without a seed the descent runs in parallel.
    topic_model.umap_model.random_state = None
    topic_model.transform(["warm up"] * 64)
    return lambda texts, embeddings: topic_model.transform(texts, embeddings)


def _onnxruntime_ways(
    repository: Path, texts: list[str], *, plain: bool = True
) -> Iterator[tuple[str, Callable[[int, int], None]]]:
    """Ways to embed a range of texts by ONNX Runtime alone, tokenised beforehand.

    `packed` is the graph that is served; `plain` the fp32 model as torch.onnx exports it, with padding.
    """
    from bertopic_embedder import OnnxEncoder, Tokenizer

    tokenizer = Tokenizer.load(repository / "BERTopic-tokenizer" / "1")
    tokenised = [tokenizer.tokenize([text]) for text in texts]
    rows = [tokens.input_ids[tokens.attention_mask == 1] for tokens in tokenised]
    lengths = np.array([len(row) for row in rows])
    cores = len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(cores)

    def batches(start: int, stop: int, splits: int, step: int) -> list[tuple[Any, Any]]:
        order = start + np.argsort(lengths[start:stop], kind="stable")
        return [_padded([rows[i] for i in part], step) for part in np.array_split(order, min(splits, stop - start))]

    graphs = [("packed", repository / "BERTopic-bert" / "1", 16, 4)]
    if plain:
        graphs.append(("plain", _plain_graph(repository.parent), 1, 8))
    for graph, folder, step, most in graphs:
        together = OnnxEncoder.load(folder, threads=cores)
        apart = [OnnxEncoder.load(folder, threads=1) for _ in range(cores)]
        for splits in (n for n in (1, 2, 4, 8) if n <= most):

            def one_session(start: int, stop: int, n: int = splits, step: int = step, session: Any = together) -> None:
                _encode_all(session, batches(start, stop, n, step))

            def sessions(start: int, stop: int, n: int = splits, step: int = step, each: Any = apart) -> None:
                parts = batches(start, stop, n, step)
                work = [pool.submit(_encode_all, session, parts[i :: len(each)]) for i, session in enumerate(each)]
                for done in work:
                    done.result()

            yield f"{graph}, {splits} calls, one session of {cores} threads", one_session
            if splits > 1:
                yield f"{graph}, {splits} calls, {cores} sessions of one thread", sessions


def _padded(rows: list[Any], step: int) -> tuple[Any, Any]:
    shape = (len(rows), -(-max(map(len, rows)) // step) * step)
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask


def _report_padding(repository: Path, texts: list[str], concurrency: int = 32) -> None:
    """Work on padding, as a share of the work on tokens, in batches of `concurrency` texts."""
    from bertopic_embedder import Tokenizer

    tokenizer = Tokenizer.load(repository / "BERTopic-tokenizer" / "1")
    batches = [texts[i : i + concurrency] for i in range(0, len(texts), concurrency)]
    lengths = [tokenizer.tokenize(batch).lengths() for batch in batches]
    calls = [call.tokens for batch in batches for call in tokenizer.plan(batch, side_by_side=2).calls]
    tokens = sum(int(n.sum()) for n in lengths)
    pairs = sum(int((n**2).sum()) for n in lengths)
    padded = sum(int(n.max()) * len(n) for n in lengths)
    cells = sum(call.input_ids.shape[0] * call.input_ids.shape[1] ** 2 for call in calls)
    # Per token and layer, hidden size h: 24 h^2 operations outside attention; per pair 4 h inside it.
    hidden = 384
    work = 24 * hidden**2 * tokens + 4 * hidden * pairs
    console.print(
        f"padding in batches of {concurrency}: {padded / tokens - 1:.0%} more tokens if padded to the longest; "
        f"here none outside attention, and {4 * hidden * (cells - pairs) / work:.1%} more operations in all",
        highlight=False,
    )


def _encode_all(session: Any, batches: list[tuple[Any, Any]]) -> None:
    for batch in batches:
        session.encode(*batch)


def _plain_graph(folder: Path) -> Path:
    """The embedder exported with its padding."""
    from bertopic_embedder import load_sentence_transformer
    from bertopic_embedder._export import trace
    from bertopic_embedder._modules import PaddedModel, take_apart

    target = folder / "plain"
    if not (target / "model.onnx").is_file():
        target.mkdir(exist_ok=True)
        trace(PaddedModel(*take_apart(load_sentence_transformer(_embedder()))), target / "model.onnx")
    return target


def _keep_fastest(results: dict[str, dict[int, Measured]]) -> None:
    """Of all ways to run ONNX Runtime, the fastest at each concurrency is the limit."""
    ways = {who: results.pop(who) for who in list(results) if who.startswith(BARE)}
    results[BARE] = {}
    for concurrency in CONCURRENCIES:
        fastest = max(ways, key=lambda way: ways[way][concurrency].per_second)
        results[BARE][concurrency] = ways[fastest][concurrency]
        console.print(f"fastest at {concurrency}: {fastest}")


def _report(results: dict[str, dict[str, dict[int, Measured]]], out: Path | None) -> None:
    for kind, by_who in results.items():
        table = Table("", *(f"{c} in flight" for c in CONCURRENCIES), title=f"{kind} a second (p50 / p99 ms)")
        for who, measured in by_who.items():
            cells = [f"{m.per_second:,.0f} ({m.p50_ms:.1f} / {m.p99_ms:.1f})" for m in measured.values()]
            table.add_row(who, *cells)
        console.print(table)
        ours = by_who[SERVER]
        ratios = Table("this server over", *(f"{c} in flight" for c in CONCURRENCIES), title=f"{kind}: ratios")
        for who, measured in by_who.items():
            if who != SERVER:
                ratios.add_row(who, *(f"{ours[c].per_second / m.per_second:.2f}x" for c, m in measured.items()))
        console.print(ratios)
    machine = platform.processor() or platform.machine()
    console.print(f"{machine}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = {
            kind: {who: {str(c): vars(m) for c, m in measured.items()} for who, measured in by_who.items()}
            for kind, by_who in results.items()
        }
        (out / "end_to_end.json").write_text(json.dumps(content, indent=2) + "\n")
        _plot(results, out / "end_to_end.png")


def _plot(results: dict[str, dict[str, dict[int, Measured]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(11, 3.6), layout="constrained")
    for axis, (kind, by_who) in zip(axes, results.items(), strict=True):
        height = 0.8 / len(CONCURRENCIES)
        for i, concurrency in enumerate(CONCURRENCIES):
            rates = [measured[concurrency].per_second for measured in by_who.values()]
            places = np.arange(len(by_who)) + i * height
            bars = axis.barh(places, rates, height, label=f"{concurrency} in flight")
            axis.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=7)
        axis.set(
            title=f"{kind} a second", xscale="log", yticks=np.arange(len(by_who)) + height, yticklabels=list(by_who)
        )
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
