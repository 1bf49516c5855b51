"""Ten times more than the server can answer: how much it still answers, how soon, and what the others are told.

    python benchmarks/overload.py [--texts file.jsonl] [--seconds 60] [--out benchmarks/results]

Finds the most that the server answers in a closed loop, and then, in the same run:

- ten times as many clients, each of which waits after being turned away as the Python client does;
- for texts, an open loop at ten times that rate: nobody waits, whatever the answers are.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _load import Crowd, closed_loop, crowd
from _measure import machine
from bertopic_server import Address, TritonServer
from end_to_end import WARM_UP, _embedding_requests, _embeddings, _model, _text_requests
from rich.console import Console
from rich.table import Table

TIMES = 10
CONCURRENCIES = (32, 64, 128, 256)
# In an open loop, how many requests may wait for an answer.
MOST_WAITING = 8_000
console = Console(width=140)


@dataclass(frozen=True)
class Peak:
    """The most that was answered in a closed loop."""

    per_second: float
    concurrency: int


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    _, repository, texts = _model(arguments.texts, arguments.column, arguments.folder)
    embeddings = _embeddings(texts)
    table = Table(
        "",
        "peak",
        "answered",
        "goodput",
        "p50 / p99 ms",
        "refused",
        "oldest at the end",
        "memory MiB",
        title="overload",
    )
    results: dict[str, Any] = {"machine": machine()}
    with TritonServer(repository, Address.on_free_ports()) as server:
        url = server.address.http_url
        for kind, requests in (
            ("texts", _text_requests(url, texts)),
            ("embeddings", _embedding_requests(url, embeddings)),
        ):
            peak = _peak(url, requests)
            runs = {f"{TIMES} x {peak.concurrency} clients": (TIMES * peak.concurrency, None)}
            if kind == "texts":
                runs[f"{TIMES} x {peak.per_second:,.0f} a second"] = (MOST_WAITING, TIMES * peak.per_second)
            for name, (clients, rate) in runs.items():
                console.print(f"measuring {kind}: {name}")
                before = _resident(server)
                found = crowd(url, requests, clients, seconds=arguments.seconds, warm_up=WARM_UP, rate=rate)
                after = _resident(server)
                results[f"{kind}, {name}"] = _figures(found, peak, before, after)
                table.add_row(
                    f"{kind}: {name}",
                    f"{peak.per_second:,.0f}/s",
                    f"{found.goodput:,.0f}/s",
                    f"{found.goodput / peak.per_second:.0%}",
                    f"{found.milliseconds(50):,.0f} / {found.milliseconds(99):,.0f}",
                    f"{sum(found.refused.values()) / found.sent:.0%}",
                    f"{found.longest_wait:.1f} s",
                    f"{before:,.0f} -> {after:,.0f}",
                )
                for words, n in found.refused.items():
                    console.print(f"  {n:,} were told: {words}", highlight=False)
    console.print(table)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "overload.json").write_text(json.dumps(results, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help=".txt, .jsonl or .csv; docstrings of installed packages if absent")
    parser.add_argument("--column", default="text")
    parser.add_argument("--seconds", type=float, default=60.0, help="per figure")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="keeps trained and converted models")
    parser.add_argument("--out", type=Path, help="folder for overload.json")
    return parser.parse_args()


def _peak(url: str, requests: list[bytes]) -> Peak:
    measured = {n: closed_loop(url, requests, n, seconds=5, warm_up=WARM_UP) for n in CONCURRENCIES}
    best = max(measured, key=lambda n: measured[n].per_second)
    return Peak(measured[best].per_second, best)


def _figures(found: Crowd, peak: Peak, before: float, after: float) -> dict[str, Any]:
    return {
        "peak_per_second": peak.per_second,
        "peak_concurrency": peak.concurrency,
        "answered_per_second": found.goodput,
        "goodput": found.goodput / peak.per_second,
        "p50_ms": found.milliseconds(50),
        "p99_ms": found.milliseconds(99),
        "sent_per_second": found.sent / found.seconds,
        "refused": dict(found.refused),
        "longest_wait_seconds": found.longest_wait,
        "resident_mib": [before, after],
    }


def _resident(server: TritonServer) -> float:
    """MiB of tritonserver and its python models, shared pages counted once."""
    pids = [server.pid, *server.stubs.all()]
    return sum(_proportional(pid) for pid in pids) / 1024


def _proportional(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
