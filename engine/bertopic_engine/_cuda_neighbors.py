"""Exact nearest neighbours on a GPU: tensor cores say where they may be, full precision says which they are.

Scores of all training rows (cosines of rows in half precision, or inner products minus half the squared length) come
from one matrix product after another. Of every 16 rows only the highest score is kept, of every 16 such maxima the
highest again, and so on: a tree. The k rows with the highest scores lie below at most k of its nodes at every level, so
that a walk down keeps the best nodes of a level, looks at their children only, and ends at few rows. Those are
compared as the CPU does, by the sum of squared differences, in an order of its own for every row: neither the other
rows of a batch nor their number can change an answer.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from ._cuda_layout import view
from ._scan import normalize

f32, i32 = np.float32, np.int32

FAN_OUT = 16
"""Children of a node, and training rows of a lowest node."""

_NODES_PER_BLOCK = 128
_ROWS_PER_BLOCK = 32


class CudaNeighbors:
    """Neighbours by comparing with every training row, on a GPU; see `ExactNeighbors`.

    Parameters
    ----------
    data : float32 [n, dim]
        Rows whose squared distances order neighbours, infinite where a row is nobody's neighbour.
    metric : {"cosine", "euclidean"}
        Under cosine the rows are of length one, and scored in half precision.
    n_neighbors : int
    xp : module
        What computes matrix products and holds arrays: CuPy, or numpy under numba's simulator.
    half_precision : bool
        Whether `data` are rounded to half precision, so that queries have to be as well.
    most_rows : int
        Of a query. Every matrix product has as many, also for a lone row, whose scores are then added up in the same
        order whatever comes with it.
    tile : int
        Training rows of a matrix product, a multiple of FAN_OUT.
    threads : int
        That share one row.
    """

    def __init__(
        self,
        data: NDArray[np.float32],
        metric: str,
        n_neighbors: int,
        xp: Any,
        *,
        half_precision: bool,
        most_rows: int,
        tile: int,
        threads: int,
    ) -> None:
        self._xp, self._tile, self._threads = xp, min(tile, _padded(len(data))), threads
        self._cosine, self._half_precision = metric == "cosine", half_precision
        self._factor = np.float16 if self._cosine else f32
        self._nearest = nearest_kernel(n_neighbors)
        self._store(data)
        self._lay_out_tree(most_rows, kept_nodes(n_neighbors) * FAN_OUT)
        dim = data.shape[1]
        self._queries = xp.zeros((most_rows, dim), f32)
        self._scores = xp.empty((most_rows, self._tile), f32)
        # Matrix products take the arrays of CuPy, kernels their views.
        self._queries_view, self._scores_view = view(self._queries), view(self._scores)
        self._found = tuple(view(xp.empty((most_rows, n_neighbors), dtype)) for dtype in (i32, f32))

    def _store(self, data: NDArray[np.float32]) -> None:
        xp, tile = self._xp, self._tile
        n, dim = -(-len(data) // tile) * tile, data.shape[1]
        # Scores of rows that lie far from the origin, and near one another, would be differences of large numbers.
        center = np.zeros(dim, f32) if self._cosine else _mean(data)
        self._center = xp.asarray(center)
        self._scored = xp.zeros((n, dim), self._factor)
        rows = xp.full((n // FAN_OUT, dim, FAN_OUT), math.inf, f32)
        biases = xp.full(n, -math.inf, f32)
        for start in range(0, n, tile):
            some = np.full((tile, dim), math.inf, f32)
            some[: len(data) - start] = data[start : start + tile]
            there = np.isfinite(some).all(axis=1)
            scored = np.where(there[:, None], some - center, 0)
            bias = f32(0.0) if self._cosine else -np.einsum("ij,ij->i", scored, scored) / 2
            self._scored[start : start + tile] = xp.asarray(scored.astype(self._factor))
            biases[start : start + tile] = xp.asarray(np.where(there, bias, -math.inf).astype(f32))
            segments = some.reshape(FAN_OUT, tile // FAN_OUT, dim).transpose(1, 2, 0)
            rows[start // FAN_OUT : (start + tile) // FAN_OUT] = xp.asarray(np.ascontiguousarray(segments))
        self._rows, self._biases = view(rows), view(biases)

    def _lay_out_tree(self, most_rows: int, most_nodes: int) -> None:
        """Levels of nodes, lowest first, until one has no more than a walk can look at."""
        sizes = [self._rows.shape[0]]
        while sizes[-1] > most_nodes:
            sizes.append(-(-sizes[-1] // FAN_OUT))
        self._sizes = sizes
        self._starts = [sum(sizes[:level]) for level in range(len(sizes))]
        self._tree = view(self._xp.empty((most_rows, sum(sizes)), f32))
        self._levels = [view(self._xp.asarray(np.array(values, i32))) for values in (self._starts, sizes)]

    def query(self, x: NDArray[np.float32]) -> tuple[Any, Any]:
        """The nearest training rows of every row, on the device until the next call.

        Parameters
        ----------
        x : float32 [at most `most_rows`, dim]

        Returns
        -------
        indices : int32 [most_rows, n_neighbors]
        distances : float32 [most_rows, n_neighbors]
            As `Neighbors.query` promises, for the rows that were given.
        """
        self._queries[: len(x)] = self._xp.asarray(x)
        if self._cosine:
            blocks = -(-len(x) // _ROWS_PER_BLOCK)
            _normalize[blocks, min(_ROWS_PER_BLOCK, len(x))](self._queries_view, len(x))
        if self._half_precision:
            self._queries[...] = self._queries.astype(np.float16)
        self._grow_tree(len(x))
        self._nearest[len(x), self._threads](
            self._queries_view, self._rows, self._tile, self._tree, *self._levels, self._cosine, *self._found
        )
        return self._found

    def _grow_tree(self, n_queries: int) -> None:
        queries = (self._queries - self._center).astype(self._factor)
        for first in range(0, len(self._scored), self._tile):
            multiply(self._xp, queries, self._scored[first : first + self._tile], self._scores)
            nodes = _nodes(self._tile // FAN_OUT, n_queries)
            lowest_maxima[nodes](self._scores_view, self._biases, first, self._tree)
        for start, size in zip(self._starts[:-1], self._sizes[:-1], strict=True):
            higher_maxima[_nodes(-(-size // FAN_OUT), n_queries)](self._tree, start, size)


def multiply(xp: Any, queries: Any, rows: Any, products: Any) -> None:
    """Inner products of all queries with all rows, added up in single precision.

    CuPy's own product of arrays in half precision rounds its results to that, which rows that lie close together do not
    bear: near 1, cosines would be 0.0005 apart.

    Parameters
    ----------
    xp : module
        CuPy, or numpy.
    queries, rows : float16 or float32 [m, dim], [n, dim]
        Of one type.
    products : float32 [m, n]
        Written.
    """
    if xp is np:
        np.matmul(queries, rows.T, out=products, dtype=f32)
        return
    cublas, runtime = xp.cuda.cublas, xp.cuda.runtime
    (m, dim), n = queries.shape, len(rows)
    kind = runtime.CUDA_R_16F if queries.dtype == np.float16 else runtime.CUDA_R_32F
    one, zero = (np.array(factor, f32) for factor in (1.0, 0.0))
    # To cuBLAS, which counts by columns, these are the transposes of the arrays.
    cublas.gemmEx(
        xp.cuda.Device().cublas_handle,
        *(cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, n, m, dim),
        *(one.ctypes.data, rows.data.ptr, kind, dim, queries.data.ptr, kind, dim),
        *(zero.ctypes.data, products.data.ptr, runtime.CUDA_R_32F, n),
        *(cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT),
    )


def _mean(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of the rows that are somebody's neighbours."""
    there = np.isfinite(data).all(axis=1, keepdims=True)
    result: NDArray[np.float32] = data.mean(axis=0, dtype=np.float64, where=there).astype(f32)
    return result


def _padded(n: int) -> int:
    return -(-n // FAN_OUT) * FAN_OUT


def _nodes(n_nodes: int, n_queries: int) -> Any:
    """Blocks and threads for each node of each query."""
    threads = min(_NODES_PER_BLOCK, n_nodes)
    return (-(-n_nodes // threads), n_queries), threads


@cuda.jit
def _normalize(rows: Any, n: int) -> None:
    row = cuda.grid(1)
    if row < n:
        normalize(rows[row : row + 1], rows[row : row + 1])


def kept_nodes(n_neighbors: int) -> int:
    """Nodes that a walk keeps at each level: twice the neighbours, or a few more.

    As many as there are neighbours would do if scores were exact. A node is lost only if that many others have rows
    that rounding puts before its own.
    """
    return -(-2 * n_neighbors // 4) * 4


def shared_bytes(n_neighbors: int) -> int:
    """What the threads of `nearest_kernel` have in common."""
    return 4 * kept_nodes(n_neighbors) * (2 + FAN_OUT)


@cuda.jit
def lowest_maxima(scores: Any, bias: Any, first: int, tree: Any) -> None:
    """Fill the lowest level for training rows from `first` on; a thread for each node (x) and query (y).

    The rows of a node are as many rows apart as there are nodes, so that neighbouring threads read neighbouring scores.

    Parameters
    ----------
    scores : float32 [n_queries, n], n a multiple of FAN_OUT
    bias : float32 [rows in all]
        Added to a row's scores; -inf for one that is nobody's neighbour.
    first : int
        A multiple of FAN_OUT.
    tree : float32 [n_queries, nodes in all]
    """
    node, query = cuda.grid(1), cuda.blockIdx.y
    n_nodes = scores.shape[1] // FAN_OUT
    if node >= n_nodes:
        return
    highest = f32(-math.inf)
    for i in range(FAN_OUT):
        row = i * n_nodes + node
        highest = max(highest, scores[query, row] + bias[first + row])
    tree[query, first // FAN_OUT + node] = highest


@cuda.jit
def higher_maxima(tree: Any, start: int, size: int) -> None:
    """Fill the level above that of `size` nodes at `start`; a thread for each node (x) and query (y)."""
    node, query = cuda.grid(1), cuda.blockIdx.y
    if node * FAN_OUT >= size:
        return
    highest = f32(-math.inf)
    for child in range(node * FAN_OUT, min((node + 1) * FAN_OUT, size)):
        highest = max(highest, tree[query, start + child])
    tree[query, start + size + node] = highest


@cuda.jit(device=True)
def _n_before(values: Any, i: int) -> int:
    """How many values are higher than that at i, or as high and before it."""
    value = values[i]
    n = 0
    # Elements themselves, since an index takes three times as many instructions.
    for earlier in values[:i]:
        if earlier >= value:
            n += 1
    for later in values[i + 1 :]:
        if later > value:
            n += 1
    return n


@cuda.jit(device=True)
def _squared_distance(a: Any, b: Any) -> Any:
    total = f32(0.0)
    d = 0
    while d < a.shape[0]:
        difference = a[d] - b[d]
        total += difference * difference
        d += 1
    return total


@lru_cache
def nearest_kernel(n_neighbors: int) -> Any:
    """The kernel that walks down the trees and compares rows, one query a block of any number of threads.

    It takes `queries` float32 [m, dim]; `rows` float32 [nodes, dim, FAN_OUT], the training rows of each lowest node,
    infinite where there is none; `tile` int, as many training rows share out their nodes; `tree` float32 [m, nodes in
    all]; `starts`, `sizes` int32 [levels], lowest first; `cosine` bool. Writes `indices` int32 [m, n_neighbors] and
    `distances` float32 [m, n_neighbors] as `Neighbors.query` promises.
    """
    n_kept = kept_nodes(n_neighbors)
    n_candidates = n_kept * FAN_OUT

    @cuda.jit(device=True)
    def training_row(chosen: Any, candidate: int, tile: int) -> Any:
        """A candidate's row, from the node that it belongs to and its place there; see `lowest_maxima`."""
        node, place = chosen[candidate // FAN_OUT], candidate % FAN_OUT
        n_nodes = tile // FAN_OUT
        return node // n_nodes * tile + place * n_nodes + node % n_nodes

    @cuda.jit
    def nearest(
        queries: Any,
        rows: Any,
        tile: int,
        tree: Any,
        starts: Any,
        sizes: Any,
        cosine: Any,
        indices: Any,
        distances: Any,
    ) -> None:
        query, thread, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        chosen = cuda.shared.array(n_kept, i32)
        kept = cuda.shared.array(n_kept, i32)
        values = cuda.shared.array(n_candidates, f32)

        # As if all nodes of the highest level, of which there are no more than candidates, had been chosen.
        for i in range(thread, n_kept, n_threads):
            chosen[i] = i
        cuda.syncthreads()
        for level in range(sizes.shape[0] - 1, -1, -1):
            for c in range(thread, n_candidates, n_threads):
                node = chosen[c // FAN_OUT] * FAN_OUT + c % FAN_OUT
                values[c] = tree[query, starts[level] + node] if node < sizes[level] else f32(-math.inf)
            cuda.syncthreads()
            for c in range(thread, n_candidates, n_threads):
                rank = _n_before(values, c)
                if rank < n_kept:
                    kept[rank] = chosen[c // FAN_OUT] * FAN_OUT + c % FAN_OUT
            cuda.syncthreads()
            for i in range(thread, n_kept, n_threads):
                chosen[i] = kept[i]
            cuda.syncthreads()

        for j in range(thread, n_neighbors, n_threads):
            indices[query, j] = -1
        # Negative, so that the nearest come first in the same order.
        for c in range(thread, n_candidates, n_threads):
            node, place = chosen[c // FAN_OUT], c % FAN_OUT
            values[c] = -f32(math.inf)
            if node < rows.shape[0]:
                squared = _squared_distance(queries[query], rows[node, :, place])
                values[c] = -squared / f32(2.0) if cosine else -math.sqrt(squared)
        cuda.syncthreads()
        for c in range(thread, n_candidates, n_threads):
            value = values[c]
            if value > -f32(math.inf):
                row = training_row(chosen, c, tile)
                rank = other = 0
                while other < n_candidates:
                    if values[other] > value or (values[other] == value and training_row(chosen, other, tile) < row):
                        rank += 1
                    other += 1
                if rank < n_neighbors:
                    indices[query, rank] = row
                    distances[query, rank] = -value
        cuda.syncthreads()
        for j in range(thread, n_neighbors, n_threads):
            if indices[query, j] < 0:
                last = j
                while last >= 0 and indices[query, last] < 0:
                    last -= 1
                distances[query, j] = distances[query, last] if last >= 0 else f32(0.0)

    return nearest
