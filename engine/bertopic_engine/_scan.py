"""Exact nearest neighbours by comparing with every training row.

A row's distances must not depend on the rows beside it, which rules out BLAS: its summation order follows the
shape of the matrices. Here four queries meet two training rows at a time in one loop, always, and each of the
eight sums is built the same way. Differences are squared directly, so that near duplicates lose no digits.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

QUERIES = 4
"""Queries in a block."""
_TILE = 128
"""Training rows, an even number, that stay in cache while all blocks of a call pass over them."""


@njit(nogil=True, cache=True)
def normalize(rows: Floats, normalized: Floats) -> None:
    """Scale rows to length one; a zero row, which has no direction, becomes infinitely far from everything."""
    for i in range(rows.shape[0]):
        total = 0.0
        for value in rows[i]:
            total += np.float64(value) * value
        norm = math.sqrt(total)
        for d in range(rows.shape[1]):
            normalized[i, d] = rows[i, d] / norm if norm > 0.0 else math.inf


# Reassociation lets the sums run in vector registers; infinities keep their meaning.
@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _squared_distances(queries: Floats, x: Floats, y: Floats, squared: Floats) -> None:
    x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = np.float32(0.0)
    for d in range(x.shape[0]):
        q0, q1, q2, q3 = queries[0, d], queries[1, d], queries[2, d], queries[3, d]
        x0 += (q0 - x[d]) * (q0 - x[d])
        x1 += (q1 - x[d]) * (q1 - x[d])
        x2 += (q2 - x[d]) * (q2 - x[d])
        x3 += (q3 - x[d]) * (q3 - x[d])
        y0 += (q0 - y[d]) * (q0 - y[d])
        y1 += (q1 - y[d]) * (q1 - y[d])
        y2 += (q2 - y[d]) * (q2 - y[d])
        y3 += (q3 - y[d]) * (q3 - y[d])
    squared[0, 0], squared[0, 1], squared[0, 2], squared[0, 3] = x0, x1, x2, x3
    squared[1, 0], squared[1, 1], squared[1, 2], squared[1, 3] = y0, y1, y2, y3


@njit(nogil=True, cache=True)
def _insert(indices: Ints, squared: Floats, index: int, distance: float) -> None:
    """Insert into one query's list, ascending by distance, behind those at the same distance."""
    j = indices.shape[0] - 1
    while j > 0 and squared[j - 1] > distance:
        indices[j], squared[j] = indices[j - 1], squared[j - 1]
        j -= 1
    indices[j], squared[j] = index, distance


@njit(nogil=True, cache=True)
def scan(queries: Floats, rows: Floats, start: int, stop: int, indices: Ints, squared: Floats) -> None:
    """Put the k nearest of `rows[start:stop]` into lists that hold nothing nearer than infinity.

    Parameters
    ----------
    queries : float32 [blocks, QUERIES, dim]
    rows : float32 [n, dim]
    start, stop : int
    indices : int32 [blocks, QUERIES, k]
        Written; among rows at the same distance the lowest index comes first.
    squared : float32 [blocks, QUERIES, k]
        Written: squared Euclidean distances.
    """
    last = indices.shape[2] - 1
    pair = np.empty((2, QUERIES), np.float32)
    for first in range(start, stop, _TILE):
        end = min(first + _TILE, stop)
        for block in range(queries.shape[0]):
            for row in range(first, end, 2):
                n_rows = min(2, end - row)
                _squared_distances(queries[block], rows[row], rows[row + n_rows - 1], pair)
                for i in range(n_rows):
                    for q in range(QUERIES):
                        if pair[i, q] < squared[block, q, last]:
                            _insert(indices[block, q], squared[block, q], row + i, pair[i, q])


@njit(nogil=True, cache=True)
def merge(indices: Ints, squared: Floats) -> None:
    """Merge the lists of consecutive ranges of training rows into those of the first.

    Parameters
    ----------
    indices : int32 [ranges, blocks, QUERIES, k]
    squared : float32 [ranges, blocks, QUERIES, k]
    """
    n_ranges, n_blocks, n_queries, k = indices.shape
    for part in range(1, n_ranges):
        for block in range(n_blocks):
            for q in range(n_queries):
                for j in range(k):
                    distance = squared[part, block, q, j]
                    if distance >= squared[0, block, q, k - 1]:
                        break
                    _insert(indices[0, block, q], squared[0, block, q], indices[part, block, q, j], distance)
