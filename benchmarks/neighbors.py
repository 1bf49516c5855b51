"""Ways to find the nearest training rows, side by side: which index this engine should use.

    python benchmarks/neighbors.py [--rows 50000] [--texts file.jsonl] [--out benchmarks/results]

All find the 15 nearest by cosine of held-out embeddings among training embeddings (of docstring sentences,
or of --texts). Each approximate index searches as widely as it must to find 97% of the true neighbours of
1,000 queries; others are then measured, on the same machine, one index after another. umap-learn's is built
and searched as UMAP does it. An index whose library is missing is skipped with a line that says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from _measure import processor
from _models import distinct_texts
from bertopic_engine.neighbors import ExactNeighbors, IndexNeighbors, build_index
from bertopic_engine.threads import available_threads
from bertopic_server._demo import _embedder
from bertopic_server._demo.corpus import docstring_summaries
from numpy.typing import NDArray
from rich.console import Console

K, RECALL = 15, 0.97
TUNING, MEASURED, LONE = 1_000, 2_000, 1_000
SECONDS, FEWEST_RUNS = 1.0, 3
GRAPH_WIDTHS = (15, 20, 24, 28, 32, 36, 40, 45, 50, 56, 64, 80, 96, 128, 192, 256, 384, 512)
REFINED_WIDTHS = tuple(width for width in GRAPH_WIDTHS if width >= 45)
LIST_WIDTHS = (1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256)
ENOUGH = 0.995
LIBRARIES = ("faiss-cpu", "hnswlib", "numpy", "pynndescent", "umap-learn", "usearch")
console = Console(width=120)

Rows = NDArray[np.float32]
Found = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Queries:
    """Rows to search with, and the cosines of their true k-th neighbours."""

    rows: Rows
    kth: Rows


@dataclass(frozen=True)
class Index:
    """Something that finds neighbours, on `available_threads()`.

    An exact index has one width, which means nothing; so has one that is measured as its library sets it.
    """

    search: Callable[[Rows], Found]
    save: Callable[[Path], Any]
    widths: Sequence[float] = (0,)
    widen: Callable[[float], None] = lambda width: None


@dataclass(frozen=True)
class Point:
    """An index at one width."""

    width: float
    recall: float
    rows_per_second: float


@dataclass(frozen=True)
class Measured:
    """An index at the smallest width that reaches `RECALL` on the tuning queries, else at its largest."""

    width: float
    recall: float
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    build_s: float
    megabytes: float
    batch_invariant: bool
    curve: list[Point]


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    embeddings = _embeddings(arguments)[: arguments.rows and arguments.rows + TUNING + MEASURED]
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = embeddings[TUNING + MEASURED :]
    tuning, queries = _queries(rows, embeddings[:TUNING]), _queries(rows, embeddings[TUNING : TUNING + MEASURED])
    cores = available_threads()
    results: dict[str, Measured] = {}
    for name, build in _contenders().items():
        console.print(f"measuring {name}")
        try:
            results[name] = _measure(build, rows, tuning, queries, cores)
        except (ModuleNotFoundError, RuntimeError) as error:
            console.print(f"skipped {name}: {error}", markup=False)
    machine = f"{processor()}, {cores} cores, Python {platform.python_version()}"
    title = f"{len(rows):,} rows of {rows.shape[1]}, {len(queries.rows):,} queries, k = {K}, cosine; {machine}"
    print(f"\n{title}\n\n{_markdown(results)}")
    if arguments.out is not None:
        _write(results, title, arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="training rows; all that there are if absent")
    parser.add_argument("--texts", type=Path, help=".txt, .jsonl or .csv; docstrings of installed packages if absent")
    parser.add_argument("--column", default="text")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="keeps the embeddings")
    parser.add_argument("--embeddings", type=Path, help=".npy, float32 [n, dim] in random order, instead of texts")
    parser.add_argument("--out", type=Path, help="folder for neighbors.json and neighbors.png")
    return parser.parse_args()


def _embeddings(arguments: argparse.Namespace) -> Rows:
    stem = arguments.texts.stem if arguments.texts else "docstrings"
    path: Path = arguments.embeddings or arguments.folder / f"{stem}.npy"
    if not path.is_file():
        from sentence_transformers import SentenceTransformer

        if arguments.texts is None:
            texts = docstring_summaries(Path(np.__file__).parents[1])
        else:
            texts = distinct_texts(arguments.texts, arguments.column)
        console.print(f"embedding {len(texts):,} texts")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, SentenceTransformer(str(_embedder()), device="cpu").encode(texts, batch_size=64))
    return np.asarray(np.load(path), np.float32)


def _contenders() -> dict[str, Callable[[Rows], Index]]:
    return {
        "exact: numpy": _numpy,
        "exact: this engine": _engine_exact,
        "exact: faiss Flat": lambda rows: _faiss(rows, "Flat", "", (0,)),
        "umap-learn (pynndescent)": _umap,
        "this engine's index": _engine_index,
        "faiss HNSW32 fp32": lambda rows: _faiss(rows, "HNSW32", "efSearch", GRAPH_WIDTHS),
        "faiss HNSW32 fp16": lambda rows: _faiss(rows, "HNSW32_SQfp16", "efSearch", GRAPH_WIDTHS),
        "faiss HNSW32 int8": lambda rows: _faiss(rows, "HNSW32_SQ8", "efSearch", GRAPH_WIDTHS),
        "faiss HNSW32 int4, re-ranked": lambda rows: _faiss(
            rows, "HNSW32_SQ4,Refine(SQfp16)", "efSearch", REFINED_WIDTHS
        ),
        "faiss PCA, HNSW32 fp16, re-ranked": lambda rows: _faiss(
            rows, f"PCA{rows.shape[1] // 2},HNSW32_SQfp16,Refine(SQfp16)", "efSearch", REFINED_WIDTHS
        ),
        "faiss IVF fp16": lambda rows: _faiss(rows, f"IVF{_lists(rows)},SQfp16", "nprobe", LIST_WIDTHS),
        "faiss IVF int8": lambda rows: _faiss(rows, f"IVF{_lists(rows)},SQ8", "nprobe", LIST_WIDTHS),
        "faiss IVF PQ fast-scan, re-ranked": lambda rows: _faiss(
            rows, f"IVF{_lists(rows)},PQ{rows.shape[1] // 2}x4fs,Refine(SQfp16)", "nprobe", LIST_WIDTHS
        ),
        "faiss IVF RaBitQ, re-ranked": lambda rows: _faiss(
            rows, f"IVF{_lists(rows)},RaBitQfs,Refine(SQfp16)", "nprobe", LIST_WIDTHS
        ),
        "usearch fp16": lambda rows: _usearch(rows, "f16"),
        "usearch int8": lambda rows: _usearch(rows, "i8"),
        "hnswlib fp32": _hnswlib,
    }


def _numpy(rows: Rows) -> Index:
    def search(queries: Rows) -> Found:
        found = [nearest(queries[start : start + 256]) for start in range(0, len(queries), 256)]
        return np.concatenate([ids for ids, _ in found]), np.concatenate([cosines for _, cosines in found])

    def nearest(queries: Rows) -> Found:
        cosines = queries @ rows.T
        ids = np.argpartition(cosines, -K, axis=1)[:, -K:]
        return ids, np.take_along_axis(cosines, ids, axis=1)

    return Index(search, lambda path: rows.tofile(path))


def _engine_exact(rows: Rows) -> Index:
    neighbors = ExactNeighbors(rows, "cosine")
    return Index(lambda queries: neighbors.query(queries, K), _save_into(neighbors))


def _engine_index(rows: Rows) -> Index:
    import faiss

    neighbors = build_index(rows, "cosine", k=K, recall=RECALL)
    return Index(
        lambda queries: neighbors.query(queries, K),
        _save_into(neighbors),
        GRAPH_WIDTHS,
        lambda width: faiss.ParameterSpace().set_index_parameter(neighbors._index, "efSearch", width),
    )


def _save_into(neighbors: ExactNeighbors | IndexNeighbors) -> Callable[[Path], Any]:
    def save(path: Path) -> None:
        path.mkdir()
        neighbors.save(path)

    return save


def _faiss(rows: Rows, factory: str, parameter: str, widths: Sequence[float]) -> Index:
    import faiss

    faiss.omp_set_num_threads(available_threads())
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    if isinstance(index, faiss.IndexRefine):
        index.k_factor = 3

    def search(queries: Rows) -> Found:
        cosines, ids = index.search(queries, K)
        return ids, cosines

    def widen(width: float) -> None:
        if parameter:
            faiss.ParameterSpace().set_index_parameter(index, parameter, width)

    return Index(search, lambda path: faiss.write_index(index, str(path)), widths, widen)


def _lists(rows: Rows) -> int:
    """Inverted lists: some four times the square root of the rows, each with enough of these to train on."""
    return 1 << int(math.log2(min(6 * math.sqrt(len(rows)), len(rows) / 39)))


def _umap(rows: Rows) -> Index:
    import umap.umap_ as umap

    index = umap.nearest_neighbors(rows, K, "cosine", None, False, np.random.RandomState(0))[2]
    index.prepare()
    epsilon = 0.24 if index._angular_trees else 0.12

    return Index(
        lambda queries: index.query(queries, K, epsilon=epsilon),
        lambda path: path.write_bytes(pickle.dumps(index)),
        (epsilon,),
    )


def _usearch(rows: Rows, dtype: str) -> Index:
    import usearch.index

    index: Any = usearch.index.Index(ndim=rows.shape[1], metric="cos", dtype=dtype)
    index.add(np.arange(len(rows)), rows, threads=available_threads())

    def search(queries: Rows) -> Found:
        matches = index.search(queries, K, threads=available_threads())
        return matches.keys.reshape(-1, K).astype(np.int64), matches.distances.reshape(-1, K)

    def widen(width: float) -> None:
        index.expansion_search = int(width)

    return Index(search, lambda path: index.save(str(path)), GRAPH_WIDTHS, widen)


def _hnswlib(rows: Rows) -> Index:
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows))
    index.add_items(rows, num_threads=available_threads())
    return Index(
        lambda queries: index.knn_query(queries, K, num_threads=available_threads()),
        lambda path: index.save_index(str(path)),
        GRAPH_WIDTHS,
        lambda width: index.set_ef(int(width)),
    )


def _queries(rows: Rows, queries: Rows) -> Queries:
    parts = np.array_split(queries, max(1, len(queries) // 256))
    return Queries(queries, np.concatenate([np.partition(part @ rows.T, -K, axis=1)[:, -K] for part in parts]))


def _measure(build: Callable[[Rows], Index], rows: Rows, tuning: Queries, queries: Queries, cores: int) -> Measured:
    _use_threads(cores)
    started = time.perf_counter()
    index = build(rows)
    build_s = time.perf_counter() - started
    index.search(queries.rows)  # compiles, and starts threads
    curve = list(_curve(index, rows, queries))
    width = _tune(index, rows, tuning)
    index.widen(width)
    found = index.search(queries.rows)
    recall = _recall(rows, queries, found[0])
    per_second = _rows_per_second(index, queries.rows)
    invariant = _batch_invariant(index, queries.rows, found)
    _use_threads(1)
    p50, p99 = _lone(index, queries.rows)
    return Measured(width, recall, per_second, p50, p99, build_s, _megabytes(index), invariant, curve)


def _use_threads(threads: int) -> None:
    """Of the engine, and of all libraries that take no number of threads with a call."""
    import faiss
    from threadpoolctl import threadpool_limits

    os.environ["BERTOPIC_ENGINE_THREADS"] = str(threads)
    threadpool_limits(threads)
    faiss.omp_set_num_threads(threads)


def _curve(index: Index, rows: Rows, queries: Queries) -> Iterator[Point]:
    for width in index.widths:
        index.widen(width)
        recall = _recall(rows, queries, index.search(queries.rows)[0])
        yield Point(width, recall, _rows_per_second(index, queries.rows, seconds=0.0))
        if recall >= ENOUGH:
            return


def _tune(index: Index, rows: Rows, queries: Queries) -> float:
    for width in index.widths:
        index.widen(width)
        if _recall(rows, queries, index.search(queries.rows)[0]) >= RECALL:
            break
    return width


def _recall(rows: Rows, queries: Queries, found: NDArray[Any]) -> float:
    """Share of what was found that is as near as the true k-th neighbour."""
    n_near = 0
    for query, kth, ids in zip(queries.rows, queries.kth, found, strict=True):
        n_near += np.count_nonzero(rows[ids[ids >= 0]] @ query >= kth - 1e-6)
    return n_near / found.size


def _rows_per_second(index: Index, queries: Rows, seconds: float = SECONDS) -> float:
    """Of the median run: some are disturbed."""
    runs: list[float] = []
    while len(runs) < FEWEST_RUNS or sum(runs) < seconds:
        started = time.perf_counter()
        index.search(queries)
        runs.append(time.perf_counter() - started)
    return len(queries) / float(np.median(runs))


def _batch_invariant(index: Index, queries: Rows, found: Found) -> bool:
    """Whether rows find the same, to the bit, alone and in a batch of seven as in the batch of all."""
    for size, n_rows in ((1, 250), (7, 700)):
        for start in range(0, n_rows, size):
            few = index.search(queries[start : start + size])
            if any((a != b[start : start + size]).any() for a, b in zip(few, found, strict=True)):
                return False
    return True


def _lone(index: Index, queries: Rows) -> tuple[float, float]:
    taken = []
    for query, _ in zip(cycle(np.split(queries, len(queries))), range(LONE + 50), strict=False):
        started = time.perf_counter()
        index.search(query)
        taken.append(time.perf_counter() - started)
    p50, p99 = np.percentile(taken[50:], [50, 99]) * 1e3
    return float(p50), float(p99)


def _megabytes(index: Index) -> float:
    """On disk, which is what these hold in memory too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index.save(path)
        files = [path] if path.is_file() else list(path.iterdir())
        return sum(file.stat().st_size for file in files) / 1e6


def _markdown(results: dict[str, Measured]) -> str:
    lines = [
        "| index | width | recall | rows/s | lone p50 / p99, ms | build, s | MB | alone as in a batch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, m in results.items():
        width = f"{m.width:g}" if m.width else ""
        lines.append(
            f"| {name} | {width} | {m.recall:.3f} | {m.rows_per_second:,.0f} | {m.p50_ms:.3f} / {m.p99_ms:.3f} "
            f"| {m.build_s:.1f} | {m.megabytes:.0f} | {'yes' if m.batch_invariant else 'no'} |"
        )
    return "\n".join(lines)


def _versions() -> Iterator[tuple[str, str]]:
    for library in LIBRARIES:
        try:
            yield library, version(library)
        except PackageNotFoundError:
            continue


def _write(results: dict[str, Measured], title: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "title": title,
        "versions": dict(_versions()),
        "indexes": {name: asdict(measured) for name, measured in results.items()},
    }
    (out / "neighbors.json").write_text(json.dumps(content, indent=2) + "\n")
    _plot(results, title, out / "neighbors.png")


def _plot(results: dict[str, Measured], title: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 5.5), layout="constrained")
    colors = plt.colormaps["tab20"](np.linspace(0, 1, 20))
    for color, (name, measured) in zip(colors, results.items(), strict=False):
        ours = "this engine" in name
        axis.plot(
            [point.recall for point in measured.curve],
            [point.rows_per_second for point in measured.curve],
            "o-",
            label=name,
            color="black" if ours else color,
            linewidth=2.5 if ours else 1.2,
            markersize=6 if ours else 4,
        )
    axis.axvline(RECALL, color="grey", linestyle=":", linewidth=1)
    axis.set(xlim=(0.9, 1.002), yscale="log", xlabel=f"recall@{K}", ylabel="rows a second in a batch, all cores")
    axis.set_title(title, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
