"""What serving costs: the server beside the same work in process, and what takes a request's processor time.

    python benchmarks/serving.py [--texts file.jsonl] [--seconds 5] [--out benchmarks/results]

Each figure has its limit in the same run, on the same machine and rows:

- embeddings, one row a request: an ensemble of two python models that compute nothing;
- embeddings, 64 rows a request: the engine in process, as many rows a call as the server has in flight;
- texts, one a request: bare ONNX Runtime in process with as many texts in hand as the server has in
  flight, no topics, every way of splitting them over calls, sessions and threads, the fastest of which
  counts; for fp32 and int8 weights, and for a mixture of short texts and ones of over 128 tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bertopic_engine
import numpy as np
from _load import Measured, closed_loop
from _measure import machine
from bertopic_server import Address, TritonServer
from bertopic_server._demo import _embedder
from bertopic_server._stubs import cpu_seconds
from end_to_end import (
    WARM_UP,
    _bare_triton,
    _binary_request,
    _embedding_requests,
    _embeddings,
    _in_process,
    _model,
    _no_op_repository,
    _onnxruntime_ways,
    _text_requests,
)
from rich.console import Console
from rich.table import Table

ROWS = 64
# One text in so many is long.
LONG_EVERY = 4
# Until what an earlier load left behind is answered.
_DRAIN_SECONDS = 2.0
console = Console(width=120)


@dataclass(frozen=True)
class Figure:
    """The server, and the limit it was measured against."""

    what: str
    unit: str
    ours: float
    limit: float
    target: float

    @property
    def share(self) -> float:
        """Of the limit; for latencies, times the limit."""
        return self.ours / self.limit

    @property
    def met(self) -> bool:
        return self.share <= self.target if self.unit == "ms" else self.share >= self.target


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model, repository, texts = _model(arguments.texts, arguments.column, arguments.folder)
    int8 = _int8(model, repository.with_name("model_repository_int8"))
    embeddings = _embeddings(texts)
    long = _with_long_ones(texts)
    loads = _Loads(arguments.seconds)
    figures: list[Figure] = []
    parts: dict[str, dict[str, float]] = {}

    with TritonServer(repository, Address.on_free_ports()) as server:
        url = server.address.http_url
        rows, bodies = _embedding_requests(url, embeddings), _text_requests(url, texts)
        served = {n: loads.over_http(url, rows, n) for n in (1, 128)}
        many = loads.over_http(url, _many_rows(url, embeddings), 8)
        in_text = loads.over_http(url, bodies, 32)
        mixed = loads.over_http(url, _text_requests(url, long), 32)
        for name, requests, entrance, concurrency in (
            ("text, alone", bodies, "text", 1),
            ("text, 32 in flight", bodies, "text", 32),
            ("embedding, alone", rows, "inference", 1),
            ("embedding, 128 in flight", rows, "inference", 128),
        ):
            parts[name] = _parts(server, repository, loads, requests, entrance, concurrency, texts, embeddings)
    with TritonServer(int8, Address.on_free_ports()) as server:
        url = server.address.http_url
        in_int8 = loads.over_http(url, _text_requests(url, texts), 32)
    with _no_op_repository(embeddings.shape[1]) as folder, _bare_triton(folder) as url:
        no_op = {n: loads.over_http(url, _embedding_requests(url, embeddings), n) for n in (1, 128)}
    engine = bertopic_engine.load(repository)
    in_process = loads.in_process(lambda start, stop: engine.predict(embeddings[start:stop]), 8 * ROWS, len(embeddings))

    figures.append(Figure("embeddings, 128 in flight", "/s", served[128].per_second, no_op[128].per_second, 0.9))
    figures.append(Figure("embeddings, alone: p50", "ms", served[1].p50_ms, no_op[1].p50_ms, 1.5))
    figures.append(Figure("embeddings, 64 a request", "rows/s", many.per_second * ROWS, in_process.per_second, 0.8))
    for what, ours, folder, given, target in (
        ("texts, fp32, 32 in flight", in_text, repository, texts, 0.9),
        ("texts, int8, 32 in flight", in_int8, int8, texts, 0.9),
        ("texts, one in four long, 32 in flight", mixed, repository, long, 0.8),
    ):
        runs = _onnxruntime_ways(folder, given, plain=folder == repository)
        ways = {way: loads.in_process(run, 32, len(given)) for way, run in runs}
        fastest = max(ways, key=lambda way: ways[way].per_second)
        console.print(f"bare ONNX Runtime for {what}: {fastest}", highlight=False)
        figures.append(Figure(what, "/s", ours.per_second, ways[fastest].per_second, target))
    _report(figures, parts, arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help=".txt, .jsonl or .csv; docstrings of installed packages if absent")
    parser.add_argument("--column", default="text")
    parser.add_argument("--seconds", type=float, default=5.0, help="per figure")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="keeps trained and converted models")
    parser.add_argument("--out", type=Path, help="folder for serving.json and serving.png")
    return parser.parse_args()


class _Loads:
    """Measures for some seconds, here or over HTTP."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def over_http(self, url: str, requests: Sequence[bytes], concurrency: int) -> Measured:
        return closed_loop(url, requests, concurrency, seconds=self._seconds, warm_up=WARM_UP)

    def in_process(self, run: Callable[[int, int], Any], rows: int, available: int) -> Measured:
        return _in_process(run, rows, available, self._seconds)


def _int8(model: Path, repository: Path) -> Path:
    from bertopic_converters import convert

    if not repository.is_dir():
        console.print("converting with int8 weights")
        convert(model, repository, embedder=str(_embedder()), precision="int8", seeds=0, trust_pickle=True)
    return repository


def _with_long_ones(texts: list[str], words: int = 160) -> list[str]:
    """The texts, every fourth of which is made of as many of its followers as it takes to be long."""
    return [_long(texts, i, words) if i % LONG_EVERY == 0 else text for i, text in enumerate(texts)]


def _long(texts: list[str], start: int, words: int) -> str:
    joined = ""
    while len(joined.split()) < words:
        joined += f" {texts[start % len(texts)]}"
        start += 1
    return joined


def _many_rows(url: str, embeddings: Any) -> list[bytes]:
    target = f"{url}/v2/models/BERTopic-inference/infer"
    batches = [embeddings[start : start + ROWS] for start in range(0, len(embeddings) - ROWS, ROWS)]
    return [_binary_request(target, "IN", "FP32", list(batch.shape), batch.tobytes()) for batch in batches]


def _parts(
    server: TritonServer,
    repository: Path,
    loads: _Loads,
    requests: list[bytes],
    entrance: str,
    concurrency: int,
    texts: list[str],
    embeddings: Any,
) -> dict[str, float]:
    """The milliseconds of processor time that a request takes, by part.

    Processes tell what they used. What tokenizer and engine use of it is measured in process, on batches of the
    same size.
    """
    time.sleep(_DRAIN_SECONDS)
    before = _used(server, entrance), server.statistics(f"BERTopic-{entrance}")
    loads.over_http(server.address.http_url, requests, concurrency)
    after = _used(server, entrance), server.statistics(f"BERTopic-{entrance}")
    answered, executions = (after[1][key] - before[1][key] for key in ("inference_count", "execution_count"))
    used = {part: (after[0][part] - before[0][part]) / answered * 1e3 for part in before[0]}
    batch = round(answered / executions)
    inside = _inside(repository, texts[:batch] if entrance == "text" else None, embeddings[:batch])
    python = used.pop("python")
    return {**used, "python": max(0.0, python - sum(inside.values())), **inside}


def _used(server: TritonServer, entrance: str) -> dict[str, float]:
    """Seconds of processor time until now, by part."""
    stubs = server.stubs.all().values()
    by_model = {kind: [stub for stub in stubs if stub.model == f"BERTopic-{kind}"] for kind in (entrance, "bert")}
    return {
        "client": time.process_time(),
        "Triton": cpu_seconds(server.pid),
        "python": sum(cpu_seconds(stub.pid) for stub in by_model[entrance]),
        **({"BERT": sum(cpu_seconds(stub.pid) for stub in by_model["bert"])} if entrance == "text" else {}),
    }


def _inside(repository: Path, texts: list[str] | None, embeddings: Any) -> dict[str, float]:
    from bertopic_embedder import Tokenizer

    model = bertopic_engine.load(repository)
    reduced = model.umap.transform(embeddings)
    parts = {}
    if texts is not None:
        tokenizer = Tokenizer.load(repository / "BERTopic-tokenizer" / "1")
        parts["tokenizer"] = lambda: tokenizer.plan(texts, side_by_side=2)
    parts["UMAP"] = lambda: model.umap.transform(embeddings)
    parts["HDBSCAN"] = lambda: model.topics.predict(reduced)
    return {part: _used_by(call) / len(embeddings) for part, call in parts.items()}


def _used_by(call: Callable[[], Any], calls: int = 200) -> float:
    """Milliseconds of processor time of a call, on all threads."""
    for _ in range(10):
        call()
    started = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - started) / calls * 1e3


def _report(figures: list[Figure], parts: dict[str, dict[str, float]], out: Path | None) -> None:
    table = Table("", "server", "limit", "share", "target", "", title="what serving costs")
    for figure in figures:
        sign = "<=" if figure.unit == "ms" else ">="
        table.add_row(
            figure.what,
            f"{figure.ours:,.2f} ms" if figure.unit == "ms" else f"{figure.ours:,.0f} {figure.unit}",
            f"{figure.limit:,.2f} ms" if figure.unit == "ms" else f"{figure.limit:,.0f} {figure.unit}",
            f"{figure.share:.2f}",
            f"{sign} {figure.target}",
            "met" if figure.met else "missed",
        )
    console.print(table)
    for name, by_part in parts.items():
        told = ", ".join(f"{part} {milliseconds:.3f}" for part, milliseconds in by_part.items())
        console.print(f"{name}, ms of processor time: {told}", highlight=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": machine(),
            "figures": [{**vars(figure), "share": figure.share, "met": figure.met} for figure in figures],
            "milliseconds_of_processor_time": parts,
        }
        (out / "serving.json").write_text(json.dumps(content, indent=2) + "\n")
        _plot(parts, out / "serving.png")


def _plot(parts: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    colors = {
        "client": "#d1d5db",
        "Triton": "#9ca3af",
        "python": "#6b7280",
        "tokenizer": "#e3a857",
        "BERT": "#c2603c",
        "UMAP": "#3f7fbf",
        "HDBSCAN": "#9cc3e6",
    }
    figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
    names = list(parts)
    left = np.zeros(len(names))
    for part, color in colors.items():
        shares = np.array([parts[name].get(part, 0.0) / sum(parts[name].values()) for name in names])
        axis.barh(names, shares, left=left, color=color, label=part)
        for i, share in enumerate(shares):
            if share > 0.06:
                microseconds = parts[names[i]][part] * 1e3
                axis.text(left[i] + share / 2, i, f"{microseconds:,.0f}", ha="center", va="center", fontsize=7)
        left += shares
    axis.set(xlabel="share of a request's processor time (figures: µs)", xlim=(0, 1))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, ncols=7, loc="lower center", bbox_to_anchor=(0.45, 1.0))
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
