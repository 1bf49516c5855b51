"""How strongly a new row belongs to its neighbours, and where its descent starts.

The fuzzy simplicial set of McInnes, Healy and Melville (UMAP, 2018, section 3.1), for one row at a time, in the
arithmetic of umap-learn's `smooth_knn_dist`, `compute_membership_strengths` and `init_graph_transform`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_MAX_BISECTIONS = 64
_TOLERANCE = 1e-5
# In units of the row's mean distance.
_SMALLEST_SIGMA = 1e-3
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@njit(nogil=True, cache=True)
def connect(
    indices: Ints,
    distances: Floats,
    embedding: Floats,
    outside: Floats,
    n_neighbors: float,
    local_connectivity: float,
    strengths: Floats,
    starts: Floats,
) -> None:
    """Fill in the membership strengths and the start of every row.

    Parameters
    ----------
    indices : int32 [m, k]
        Neighbours in the training data, -1 where there is none.
    distances : float32 [m, k]
        Ascending along a row.
    embedding : float32 [n, n_components]
        Where the training data lie.
    outside : float32 [n_components]
        The start of a row without neighbours.
    n_neighbors, local_connectivity : float
    strengths : float32 [m, k]
        Written: 0 where there is no neighbour.
    starts : float32 [m, n_components]
        Written.
    """
    order = np.empty(indices.shape[1], np.intp)
    ordered = np.empty(indices.shape[1], np.float32)
    for row in range(indices.shape[0]):
        fill_strengths(indices[row], distances[row], n_neighbors, local_connectivity, strengths[row])
        n = order_by_index(indices[row], strengths[row], order)
        for i in range(n):
            ordered[i] = strengths[row, order[i]]
        fill_start(indices[row], strengths[row], order[:n], _pairwise_sum(ordered[:n]), embedding, outside, starts[row])


@njit(nogil=True, cache=True)
def fill_strengths(
    indices: Ints, distances: Floats, n_neighbors: float, local_connectivity: float, strengths: Floats
) -> None:
    rho = _rho(distances, local_connectivity)
    sigma = _sigma(distances, rho, n_neighbors)
    for j in range(indices.shape[0]):
        beyond = distances[j] - rho
        if indices[j] < 0:
            strengths[j] = 0.0
        elif beyond <= 0.0 or sigma == 0.0:
            strengths[j] = 1.0
        else:
            strengths[j] = math.exp(-(beyond / sigma))


@njit(nogil=True, cache=True)
def _rho(distances: Floats, local_connectivity: float) -> np.float32:
    """Distance up to which neighbours count as fully connected."""
    k = distances.shape[0]
    first = 0
    while first < k and distances[first] <= 0.0:
        first += 1
    if first == k:
        return np.float32(0.0)
    if k - first < local_connectivity:
        return np.float32(distances[k - 1])
    whole = int(local_connectivity)
    fraction = local_connectivity - whole
    if whole == 0:
        return np.float32(fraction * distances[first])
    rho = np.float32(distances[first + whole - 1])
    if fraction > _TOLERANCE:
        rho = np.float32(rho + fraction * (distances[first + whole] - rho))
    return rho


@njit(nogil=True, cache=True)
def _sigma(distances: Floats, rho: np.float32, n_neighbors: float) -> np.float32:
    """Bandwidth at which the memberships of all but the nearest neighbour sum to log2(n_neighbors)."""
    target = math.log2(n_neighbors)
    low, high, sigma = 0.0, _FLOAT32_MAX, 1.0
    for _ in range(_MAX_BISECTIONS):
        total = 0.0
        for j in range(1, distances.shape[0]):
            beyond = distances[j] - rho
            total += math.exp(-(beyond / sigma)) if beyond > 0.0 else 1.0
        if abs(total - target) < _TOLERANCE:
            break
        if total > target:
            high = sigma
        else:
            low = sigma
        sigma = sigma * 2.0 if high == _FLOAT32_MAX else (low + high) / 2.0

    total_distance = np.float32(0.0)
    for distance in distances:
        total_distance += distance
    mean = total_distance / distances.shape[0]
    if rho == 0.0:
        # Here umap-learn takes the mean over its batch, and rounds it to single precision.
        mean = np.float64(np.float32(mean))
    return max(np.float32(sigma), np.float32(_SMALLEST_SIGMA * mean))


@njit(nogil=True, cache=True)
def fill_start(
    indices: Ints,
    strengths: Floats,
    order: NDArray[np.intp],
    total: np.float32,
    embedding: Floats,
    outside: Floats,
    start: Floats,
) -> None:
    """Mean of the neighbours by strength, or the training point itself where a strength is one.

    Added up by ascending index (`order`, see `order_by_index`), as a sorted sparse row is: the last bit of the start's
    first coordinate seeds the descent. `total` is the sum of the strengths.
    """
    if order.shape[0] == 0:
        _copy(outside, start)
        return
    for d in range(start.shape[0]):
        start[d] = 0.0
    for j in order:
        if strengths[j] == 1.0:
            _copy(embedding[indices[j]], start)
            return
        share = strengths[j] / total
        for d in range(start.shape[0]):
            start[d] += share * embedding[indices[j], d]


@njit(nogil=True, cache=True)
def _copy(source: Floats, target: Floats) -> None:
    # Element by element, since kernels of a GPU know no assignment to slices.
    for d in range(target.shape[0]):
        target[d] = source[d]


@njit(nogil=True, cache=True)
def order_by_index(indices: Ints, strengths: Floats, order: NDArray[np.intp]) -> int:
    """Fill `order` with the positions of the connected neighbours by ascending index; returns how many."""
    n = 0
    for j in range(indices.shape[0]):
        if strengths[j] == 0.0:
            continue
        i = n
        while i > 0 and indices[order[i - 1]] > indices[j]:
            order[i] = order[i - 1]
            i -= 1
        order[i] = j
        n += 1
    return n


@njit(nogil=True, cache=True)
def _pairwise_sum(values: Floats) -> np.float32:
    """Sum of float32 as numpy adds them up: in halves above 128 values, below in eight interleaved sums."""
    n = values.shape[0]
    if n > 128:
        half = n // 2 - n // 2 % 8
        return np.float32(_pairwise_sum(values[:half]) + _pairwise_sum(values[half:]))
    total = np.float32(0.0)
    stop = n - n % 8
    if stop:
        first_half = (_sum_by_eight(values, 0, stop) + _sum_by_eight(values, 1, stop)) + (
            _sum_by_eight(values, 2, stop) + _sum_by_eight(values, 3, stop)
        )
        second_half = (_sum_by_eight(values, 4, stop) + _sum_by_eight(values, 5, stop)) + (
            _sum_by_eight(values, 6, stop) + _sum_by_eight(values, 7, stop)
        )
        total = first_half + second_half
    for i in range(stop, n):
        total += values[i]
    return total


@njit(nogil=True, cache=True)
def _sum_by_eight(values: Floats, start: int, stop: int) -> np.float32:
    total = np.float32(values[start])
    for i in range(start + 8, stop, 8):
        total += values[i]
    return total
