"""The training rows nearest to new rows: exact for small models, from an index (HNSW) for large ones.

Both compare squared Euclidean distances, under cosine those of normalised rows: |x - y|^2 / 2 is 1 - cos(x, y)
without its cancellation, and zero for a text that the model was trained on. A row's neighbours depend on the
row alone, to the bit, whatever its batch and the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ._exceptions import StorageError
from ._scan import QUERIES, merge, normalize, scan
from .storage import load_arrays, load_json, require_file, save_arrays, save_json
from .threads import available_threads, for_rows

METRICS = ("cosine", "euclidean")
EXACT_BELOW = 4_096
"""Training rows below which all are compared, as umap-learn does; above, an index is several times faster."""

_SETTINGS = "neighbors.json"
_ARRAYS = "neighbors.safetensors"
_INDEX = "neighbors.faiss"

# Some 0.1 ms of work, below which another thread does not pay.
_ROWS_PER_PART = 2_048
_SMALLEST_SEARCH = 8

_LINKS = 32
_SMALLEST_EF_SEARCH, _LARGEST_EF_SEARCH = 16, 1_024
_HELD_OUT = 1_000
_ROWS_PER_ADD = 4_096

Found = tuple[NDArray[np.int32], NDArray[np.float32]]
Progress = Callable[[int, int], None]


class Neighbors(Protocol):
    """What finds the nearest training rows."""

    kind: str
    """What `load_neighbors` tells by."""
    metric: str
    recall: float
    """Share of the true nearest rows that it finds."""
    half_precision: bool
    """Whether rows are compared as rounded to half precision."""

    @property
    def dim(self) -> int:
        """Dimensions of a row."""

    def query(self, x: NDArray[np.float32], k: int) -> Found:
        """Find the k nearest training rows of every row.

        Parameters
        ----------
        x : float32 [m, dim]
            Finite, and under cosine not zero.
        k : int

        Returns
        -------
        indices : int32 [m, k]
            -1 where there are fewer than k.
        distances : float32 [m, k]
            Ascending, equal ones by index. Beside an index of -1, the row's largest.
        """

    def rows(self) -> NDArray[np.float32]:
        """The training rows, float32 [n, dim], as they are compared: under cosine of length one.

        A row that is nobody's neighbour is infinite.
        """

    def save(self, folder: Path) -> None:
        """Write what `load_neighbors` reads into `folder`."""


class ExactNeighbors:
    """Neighbours by comparing with every training row.

    Parameters
    ----------
    data : float32 [n, dim]
        Under cosine a zero row is nobody's neighbour.
    metric : {"cosine", "euclidean"}

    Raises
    ------
    ValueError
        Another metric.
    """

    kind = "exact"
    recall = 1.0
    half_precision = False

    def __init__(self, data: NDArray[np.float32], metric: str) -> None:
        self.metric = metric
        self._data = np.ascontiguousarray(data, np.float32)
        self._rows = _comparable(self._data, metric)

    @property
    def dim(self) -> int:
        return self._rows.shape[1]

    def query(self, x: NDArray[np.float32], k: int) -> Found:
        """See `Neighbors.query`."""
        blocks = self._blocks(x)
        n_rows, n_threads = len(self._rows), available_threads()
        # Few queries occupy all threads only if these share out the training rows instead.
        n_parts = 1 if len(blocks) >= n_threads else min(n_threads, max(1, n_rows // _ROWS_PER_PART))
        bounds = [n_rows * i // n_parts for i in range(n_parts + 1)]
        indices = np.full((n_parts, len(blocks), QUERIES, k), -1, np.int32)
        squared = np.full(indices.shape, np.inf, np.float32)

        def scan_blocks(start: int, stop: int) -> None:
            scan(blocks[start:stop], self._rows, 0, n_rows, indices[0, start:stop], squared[0, start:stop])

        def scan_parts(start: int, stop: int) -> None:
            for part in range(start, stop):
                scan(blocks, self._rows, bounds[part], bounds[part + 1], indices[part], squared[part])

        if n_parts == 1:
            for_rows(scan_blocks, len(blocks))
        else:
            for_rows(scan_parts, n_parts)
            merge(indices, squared)
        found = indices[0].reshape(-1, k)[: len(x)], squared[0].reshape(-1, k)[: len(x)]
        _finish(*found, self.metric == "cosine")
        return found

    def rows(self) -> NDArray[np.float32]:
        """See `Neighbors.rows`."""
        return self._rows

    def save(self, folder: Path) -> None:
        save_arrays(folder / _ARRAYS, {"data": self._data})
        save_json(folder / _SETTINGS, {"kind": self.kind, "metric": self.metric})

    def _blocks(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The queries in full blocks, so that a lone row takes the same path; the last one is repeated."""
        blocks = np.empty((-(-len(x) // QUERIES), QUERIES, self.dim), np.float32)
        rows = blocks.reshape(-1, self.dim)
        rows[: len(x)] = _comparable(x, self.metric)
        rows[len(x) :] = rows[len(x) - 1 : len(x)]
        return blocks


class IndexNeighbors:
    """Neighbours from an approximate index.

    Parameters
    ----------
    index : faiss.Index
        What `build_index` makes: squared Euclidean distances, ids that are training rows.
    metric : {"cosine", "euclidean"}
    recall : float
        As measured; see `build_index`.
    """

    kind = "index"

    def __init__(self, index: Any, metric: str, recall: float) -> None:
        self.metric = metric
        self.recall = recall
        self.half_precision = metric == "cosine"
        self._index = index

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def query(self, x: NDArray[np.float32], k: int) -> Found:
        """See `Neighbors.query`."""
        indices = np.empty((len(x), k), np.int32)
        squared = np.empty((len(x), k), np.float32)

        def search(start: int, stop: int) -> None:
            with one_openmp_thread():
                squared[start:stop], indices[start:stop] = self._index.search(_indexable(x[start:stop], self.metric), k)

        for_rows(search, len(x), smallest=_SMALLEST_SEARCH)
        _finish(indices, squared, self.metric == "cosine")
        return indices, squared

    def rows(self) -> NDArray[np.float32]:
        """See `Neighbors.rows`."""
        import faiss

        ids = faiss.vector_to_array(self._index.id_map)
        graph: Any = faiss.downcast_index(self._index.index)
        rows: NDArray[np.float32] = np.full((int(ids.max()) + 1, self.dim), np.inf, np.float32)
        rows[ids] = graph.storage.reconstruct_n(0, len(ids))
        return rows

    def save(self, folder: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(folder / _INDEX))
        save_json(folder / _SETTINGS, {"kind": self.kind, "metric": self.metric, "recall": self.recall})


def load_neighbors(folder: Path) -> Neighbors:
    """Read what `save` wrote.

    Raises
    ------
    StorageError
        A file is missing or unreadable.
    """
    settings = load_json(folder / _SETTINGS)
    if settings["kind"] == ExactNeighbors.kind:
        return ExactNeighbors(load_arrays(folder / _ARRAYS)["data"], settings["metric"])

    import faiss

    path = folder / _INDEX
    require_file(path)
    try:
        # Mapped, so that processes that serve the same model share its memory.
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise StorageError(f"{path} is not a readable faiss index ({error}). Convert the model again.") from error
    return IndexNeighbors(index, settings["metric"], settings["recall"])


def build_index(
    data: NDArray[np.float32],
    metric: str,
    *,
    k: int = 15,
    recall: float = 0.97,
    progress: Progress | None = None,
) -> IndexNeighbors:
    """Index training rows, and search it as widely as the recall asks for.

    HNSW (Malkov and Yashunin, 2018) with 32 links. Normalised rows are stored in half precision, others as
    they are. The recall is measured on up to 1,000 rows before they are added: rows that an index holds
    find their neighbours more easily than new ones do. One thread builds, so the same rows give the same bytes.

    Parameters
    ----------
    data : float32 [n, dim]
    metric : {"cosine", "euclidean"}
        Zero rows are left out under cosine.
    k : int
        Neighbours that will be asked for.
    recall : float
        Share of the true k nearest to find.
    progress : callable, optional
        Called with the rows added so far and their total.

    Returns
    -------
    IndexNeighbors
        Its `recall` as measured: below what was asked if searching more widely does not help.
    """
    import faiss

    data = np.ascontiguousarray(data, np.float32)
    ids = np.flatnonzero(data.any(axis=1)) if metric == "cosine" else np.arange(len(data))
    held_out = np.zeros(len(ids), bool)
    held_out[:: max(20, -(-len(ids) // _HELD_OUT))] = True
    n_added = 0

    graph = faiss.index_factory(data.shape[1], f"HNSW{_LINKS}_SQfp16" if metric == "cosine" else f"HNSW{_LINKS}")
    index = faiss.IndexIDMap(graph)

    def add(new_ids: NDArray[np.intp]) -> None:
        nonlocal n_added
        for start in range(0, len(new_ids), _ROWS_PER_ADD):
            some = new_ids[start : start + _ROWS_PER_ADD]
            with one_openmp_thread():
                index.add_with_ids(_indexable(data[some], metric), some)
            n_added += len(some)
            if progress:
                progress(n_added, len(ids))

    add(ids[~held_out])
    neighbors = IndexNeighbors(index, metric, recall=0.0)
    neighbors.recall = _widen(graph, neighbors, data, ids[~held_out], ids[held_out], k, recall)
    add(ids[held_out])
    return neighbors


def _widen(
    graph: Any,
    neighbors: IndexNeighbors,
    data: NDArray[np.float32],
    indexed: NDArray[np.intp],
    held_out: NDArray[np.intp],
    k: int,
    recall: float,
) -> float:
    """Raise efSearch until held-out rows find `recall` of their true neighbours; returns what they find."""
    queries = data[held_out]
    farthest = ExactNeighbors(data[indexed], neighbors.metric).query(queries, k)[1][:, -1]
    queries_rows, rows = _comparable(queries, neighbors.metric), _comparable(data, neighbors.metric)
    ef_search = max(k, _SMALLEST_EF_SEARCH)
    while True:
        graph.hnsw.efSearch = ef_search
        found = neighbors.query(queries, k)[0]
        measured = _share_within(queries_rows, rows, found, farthest, neighbors.metric == "cosine")
        if measured >= recall or ef_search >= _LARGEST_EF_SEARCH:
            return float(measured)
        ef_search = min(ef_search * 9 // 8, _LARGEST_EF_SEARCH)


def _comparable(rows: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """Rows whose squared distances order neighbours under `metric`."""
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}.")
    rows = np.ascontiguousarray(rows, np.float32)
    if metric == "euclidean":
        return rows
    normalized = np.empty_like(rows)
    normalize(rows, normalized)
    return normalized


def _indexable(rows: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """As `_comparable`; normalised rows rounded as the index stores them, so that equal texts are at distance 0."""
    comparable = _comparable(rows, metric)
    return comparable.astype(np.float16).astype(np.float32) if metric == "cosine" else comparable


@contextmanager
def one_openmp_thread() -> Iterator[None]:
    """Keep faiss on the calling thread: its waiting threads would spin on cores that others need."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@njit(nogil=True, cache=True)
def _finish(indices: NDArray[np.int32], squared: NDArray[np.float32], cosine: bool) -> None:
    """Turn squared distances into the metric's, in place, in the order that `Neighbors.query` promises."""
    k = indices.shape[1]
    for row in range(indices.shape[0]):
        n_found = 0
        for j in range(k):
            index = indices[row, j]
            if index < 0:
                break
            distance = squared[row, j] / np.float32(2.0) if cosine else np.sqrt(squared[row, j])
            i = j
            while i > 0 and (
                squared[row, i - 1] > distance or (squared[row, i - 1] == distance and indices[row, i - 1] > index)
            ):
                indices[row, i], squared[row, i] = indices[row, i - 1], squared[row, i - 1]
                i -= 1
            indices[row, i], squared[row, i] = index, distance
            n_found += 1
        squared[row, n_found:] = squared[row, n_found - 1] if n_found else np.float32(0.0)


@njit(nogil=True, cache=True)
def _share_within(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    found: NDArray[np.int32],
    farthest: NDArray[np.float32],
    cosine: bool,
) -> float:
    """Share of the found neighbours that are no farther than the true k-th (ties are as good as it)."""
    n_within = 0
    for q in range(found.shape[0]):
        for index in found[q]:
            if index < 0:
                continue
            total = 0.0
            for d in range(rows.shape[1]):
                difference = np.float64(queries[q, d]) - rows[index, d]
                total += difference * difference
            distance = total / 2.0 if cosine else np.sqrt(total)
            n_within += distance <= farthest[q] * 1.00001
    return n_within / found.size
