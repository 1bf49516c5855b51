"""A million rows from many clients at once, every answer compared with the engine's in process.

    python benchmarks/soak.py [--rows 1000000] [--concurrency 512] [--processes 4] [--faults] [--out benchmarks/results]

Serves the model of `end_to_end.py` by `bertopic-inference serve`. Several processes ask for texts and for
embeddings, over gRPC and over HTTP, in requests of one row and of many, with the asyncio client and its
retries. Each row is counted when it is answered, so that lost and repeated ones show. Meanwhile the resident
memory of tritonserver and of every model's process is sampled. With `--faults` these processes are killed in
turn; what then counts is that nothing is lost and nothing is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import machine
from _processes import SHARED, TRITONSERVER, Memory, processes, slope
from bertopic_server import Address
from end_to_end import _model
from rich.console import Console
from rich.table import Table

COMMAND = str(Path(sys.executable).with_name("bertopic-inference"))
# Half of all requests have one row, the others up to so many.
MOST_ROWS = {"texts": 64, "embeddings": 256}
WARM_UP = 0.25
# Longer than any recovery; a request that takes longer is lost.
TIMEOUT = 600.0
BETWEEN_FAULTS = 20.0
console = Console(width=120)


class Work(NamedTuple):
    """The rows that one process asks for, and what it needs to ask and to judge."""

    first: int
    last: int
    concurrency: int
    urls: tuple[str, str]
    folder: Path
    """holds texts.json, embeddings.npy, topics.npy and answered.u1"""


@dataclass
class Outcome:
    """What became of the rows of one process, or of all."""

    requests: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in MOST_ROWS})

    def add(self, other: Outcome) -> None:
        self.requests += other.requests
        self.wrong += other.wrong
        self.errors += other.errors
        for kind, values in other.milliseconds.items():
            self.milliseconds[kind] += values


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    _, repository, texts = _model(arguments.texts, arguments.column, arguments.folder)
    with tempfile.TemporaryDirectory() as folder, _serving(repository) as (serve, address):
        work = _shares(arguments, address, Path(folder))
        _expect(repository, texts, Path(folder), arguments.rows)
        console.print(f"asking for {arguments.rows:,} rows, {arguments.concurrency} requests at once")
        ended = threading.Event()
        faults: list[dict[str, Any]] = []
        breaker = threading.Thread(target=_break, args=(serve.pid, address, ended, faults), daemon=True)
        begun = time.perf_counter()
        with Memory(serve.pid) as memory:
            if arguments.faults:
                breaker.start()
            outcome = _ask_all(work)
            seconds = time.perf_counter() - begun
            ended.set()
        if arguments.faults:
            breaker.join()
        answered = np.fromfile(Path(folder) / "answered.u1", np.uint8)
    _report(arguments, answered, outcome, seconds, memory, faults)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--concurrency", type=int, default=512, help="requests at once, of all processes together")
    parser.add_argument("--processes", type=int, default=4, help="that ask")
    parser.add_argument("--faults", action="store_true", help="kill the models' processes and tritonserver in turn")
    parser.add_argument("--texts", type=Path, help=".txt, .jsonl or .csv; docstrings of installed packages if absent")
    parser.add_argument("--column", default="text")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="keeps trained and converted models")
    parser.add_argument("--out", type=Path, help="folder for soak.json and soak.png")
    return parser.parse_args()


@contextmanager
def _serving(repository: Path) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    address = Address.on_free_ports()
    ports = {"http": address.http_port, "grpc": address.grpc_port, "metrics": address.metrics_port}
    process = subprocess.Popen(
        [COMMAND, "serve", str(repository), *(f"--{name}-port={port}" for name, port in ports.items())],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if not any(line.startswith("curl") for line in process.stdout):
            raise RuntimeError("serve ended before it was ready")
        yield process, address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _expect(repository: Path, texts: list[str], folder: Path, rows: int) -> None:
    """The answers in process, for all who ask."""
    import bertopic_engine
    from bertopic_embedder import Embedder, OnnxEncoder, Tokenizer

    tokenizer, bert = (repository / f"BERTopic-{model}" / "1" for model in ("tokenizer", "bert"))
    embeddings = Embedder(Tokenizer.load(tokenizer), OnnxEncoder.load(bert)).encode(texts)
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    np.save(folder / "embeddings.npy", embeddings)
    np.save(folder / "topics.npy", bertopic_engine.load(repository).predict(embeddings).topics)
    np.zeros(rows, np.uint8).tofile(folder / "answered.u1")


def _shares(arguments: argparse.Namespace, address: Address, folder: Path) -> list[Work]:
    n = arguments.processes
    bounds = [arguments.rows * i // n for i in range(n + 1)]
    concurrency = -(-arguments.concurrency // n)
    urls = (address.grpc_url, address.http_url)
    return [Work(bounds[i], bounds[i + 1], concurrency, urls, folder) for i in range(n)]


def _ask_all(work: list[Work]) -> Outcome:
    outcome = Outcome()
    with ProcessPoolExecutor(len(work), mp_context=get_context("spawn")) as pool:
        for one in pool.map(_ask, work):
            outcome.add(one)
    return outcome


def _ask(work: Work) -> Outcome:
    return asyncio.run(_ask_at_once(work))


async def _ask_at_once(work: Work) -> Outcome:
    from bertopic_client import AsyncTopicClient, TopicClientError

    texts = json.loads((work.folder / "texts.json").read_text(encoding="utf-8"))
    embeddings, topics = (np.load(work.folder / f"{name}.npy") for name in ("embeddings", "topics"))
    answered = np.memmap(work.folder / "answered.u1", np.uint8, "r+")
    outcome = Outcome()
    requests = _requests(work)

    async def client() -> None:
        for start, stop, kind, url in requests:
            rows = np.arange(start, stop) % len(texts)
            given = [texts[row] for row in rows] if kind == "texts" else embeddings[rows]
            sent = time.perf_counter()
            try:
                prediction = await clients[url].predict(given)
            except TopicClientError as error:
                outcome.errors[f"{type(error).__name__}: {error}"] += 1
                continue
            outcome.milliseconds[kind].append((time.perf_counter() - sent) * 1e3)
            outcome.requests += 1
            outcome.wrong += int(np.sum(prediction.topics != topics[rows]))
            answered[start : start + len(prediction)] += 1

    async with AsyncExitStack() as stack:
        clients = {
            url: await stack.enter_async_context(
                AsyncTopicClient(url, timeout=TIMEOUT, retries=10_000, max_in_flight=work.concurrency)
            )
            for url in work.urls
        }
        await asyncio.gather(*(client() for _ in range(work.concurrency)))
    answered.flush()
    return outcome


def _requests(work: Work) -> Iterator[tuple[int, int, str, str]]:
    """First row, row after the last, kind and URL of each request."""
    rng = random.Random(work.first)
    start = work.first
    while start < work.last:
        kind = rng.choice(list(MOST_ROWS))
        rows = 1 if rng.random() < 0.5 else rng.randint(2, MOST_ROWS[kind])
        stop = min(start + rows, work.last)
        yield start, stop, kind, rng.choice(work.urls)
        start = stop


def _break(serve: int, address: Address, ended: threading.Event, faults: list[dict[str, Any]]) -> None:
    """Kill each process in turn, and note how long it takes until all is ready again."""
    turn = 0
    while not ended.wait(BETWEEN_FAULTS):
        names = sorted({process.name for process in processes(serve)})
        victims = [process for process in processes(serve) if process.name == names[turn % len(names)]]
        turn += 1
        if not victims:
            continue
        os.kill(victims[0].pid, signal.SIGKILL)
        killed = time.monotonic()
        while _is_ready(address) and time.monotonic() - killed < BETWEEN_FAULTS:
            time.sleep(0.02)
        noticed = time.monotonic()
        while not _is_ready(address) and not ended.is_set():
            time.sleep(0.02)
        faults.append(
            {"process": victims[0].name, "noticed": noticed - killed, "ready_again": time.monotonic() - killed}
        )


def _is_ready(address: Address) -> bool:
    try:
        url = f"http://{address.host}:{address.metrics_port}/health/ready"
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _report(
    arguments: argparse.Namespace,
    answered: Any,
    outcome: Outcome,
    seconds: float,
    memory: Memory,
    faults: list[dict[str, Any]],
) -> None:
    lost, repeated = int(np.sum(answered == 0)), int(np.sum(answered > 1))
    title = f"{len(answered):,} rows in {outcome.requests:,} requests, {arguments.concurrency} at once"
    table = Table("", "", title=title, show_header=False)
    table.add_row("lost", f"{lost:,}")
    table.add_row("repeated", f"{repeated:,}")
    table.add_row("topics other than in process", f"{outcome.wrong:,}")
    table.add_row("rows a second", f"{len(answered) / seconds:,.0f}")
    latencies = {}
    for kind, values in outcome.milliseconds.items():
        p50, p99 = np.percentile(values, [50, 99])
        latencies[kind] = {"p50_ms": float(p50), "p99_ms": float(p99)}
        table.add_row(f"{kind}: p50 / p99 of a request", f"{p50:,.0f} / {p99:,.0f} ms")
    console.print(table)
    for error, n in outcome.errors.items():
        console.print(f"{n:,} x {error}", highlight=False)
    # What was killed begins anew, which is no growth.
    slopes = {} if arguments.faults else _slopes(memory)
    if faults:
        killed = Table("killed", "noticed after", "ready again after", title="faults")
        for fault in faults:
            killed.add_row(fault["process"], f"{fault['noticed']:.1f} s", f"{fault['ready_again']:.1f} s")
        console.print(killed)
    if arguments.out is None:
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "soak_faults" if arguments.faults else "soak"
    content = {
        "machine": machine(),
        "rows": len(answered),
        "requests": outcome.requests,
        "concurrency": arguments.concurrency,
        "processes": arguments.processes,
        "seconds": seconds,
        "lost": lost,
        "repeated": repeated,
        "wrong": outcome.wrong,
        "errors": dict(outcome.errors),
        "latencies": latencies,
        "memory_mib": {process: {"last": mib[-1], "most": max(mib)} for process, mib in memory.mib.items()},
        "memory_slopes": slopes,
        "faults": faults,
    }
    (arguments.out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    _plot(memory, arguments.out / f"{name}.png")


def _slopes(memory: Memory) -> dict[str, dict[str, float]]:
    table = Table(
        "process", "MiB at the end", "MiB an hour", "95% confidence", "", title=f"memory after the first {WARM_UP:.0%}"
    )
    slopes = {}
    for name, seconds, mib in memory.after(WARM_UP):
        found = slope(seconds, mib)
        if found is None:
            console.print("too short a run to tell whether memory grows")
            return {}
        slopes[name] = asdict(found)
        table.add_row(
            name,
            f"{mib[-1]:,.1f}",
            f"{found.mib_per_hour:+,.1f}",
            f"{found.low:+,.1f} to {found.high:+,.1f}",
            "flat" if found.is_flat else "grows",
        )
    console.print(table)
    return slopes


def _plot(memory: Memory, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    minutes = np.array(memory.seconds) / 60
    largest_first = sorted(memory.mib, key=lambda name: -max(memory.mib[name]))
    for name in largest_first:
        style = {TRITONSERVER: "black", SHARED: "#e3a857"}.get(name)
        axis.plot(minutes, memory.mib[name], label=name, lw=1.2, color=style)
    axis.axvline(WARM_UP * minutes[-1], color="#9ca3af", lw=0.8, ls=":")
    axis.set(xlabel="minutes", ylabel="MiB resident", ylim=(0, None))
    axis.grid(axis="y", color="#e5e7eb")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
