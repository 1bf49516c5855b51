"""Exact nearest neighbours from a k-d tree, deciding between ties as scikit-learn's KDTree does.

Among points at equal distance, which ones are kept and in what order they are listed depends on the path
through the tree, on the heap and on the sort. HDBSCAN takes the first of several equal neighbours, so all
three follow sklearn.neighbors.KDTree.query (depth first, one tree), sklearn.utils._heap and
sklearn.utils._sorting decision by decision, in float64 without reassociation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ._introsort import introsort

Floats = NDArray[np.floating[Any]]

# The stack holds one node a level.
_LEVELS = 64
# Relative, far above the rounding of a box distance.
_TOLERANCE = 1e-12


class KdTree(NamedTuple):
    """A balanced binary tree of boxes, node i having the children 2i + 1 and 2i + 2.

    The points of a node are consecutive columns of `points`, and a neighbour is named by its column.

    Attributes
    ----------
    points : float32 or float64 [n_features, n_points]
        Training points in the order of the tree. A feature is contiguous, so that the distances to a leaf
        vectorise over its points while each of them still adds up feature by feature.
    node_lower, node_upper : dtype of `points` [n_nodes, n_features]
        Corners of each node's bounding box.
    node_start, node_stop : int32 [n_nodes]
        The columns of `points` that each node holds.
    exponent : float
        The metric's, always 2. A compiler that knew it would turn pow into a product.
    """

    points: Floats
    node_lower: Floats
    node_upper: Floats
    node_start: NDArray[np.int32]
    node_stop: NDArray[np.int32]
    exponent: float = 2.0


class Neighbors(NamedTuple):
    """The k nearest points of one row, and the working memory of the search for them.

    Attributes
    ----------
    distances : float64 [k]
        Squared while searching (a max-heap), Euclidean and ascending afterwards.
    indices : int64 [k]
    pending_nodes, pending_bounds : int64 and float64 [levels]
        Nodes still to visit and their distances from the row.
    leaf_distances : float64 [largest leaf]
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]
    pending_nodes: NDArray[np.int64]
    pending_bounds: NDArray[np.float64]
    leaf_distances: NDArray[np.float64]


@njit(nogil=True, cache=True)
def allocate_neighbors(tree: KdTree, k: int) -> Neighbors:
    """Working memory for the `k` nearest neighbours of one row after another."""
    n_leaves = (len(tree.node_start) + 1) // 2
    return Neighbors(
        np.empty(k, np.float64),
        np.empty(k, np.int64),
        np.empty(_LEVELS, np.int64),
        np.empty(_LEVELS, np.float64),
        # Halving keeps leaves within one point of each other.
        np.empty(tree.points.shape[1] // n_leaves + 1, np.float64),
    )


@njit(nogil=True, cache=True)
def find_neighbors(tree: KdTree, point: Floats, neighbors: Neighbors) -> None:
    """Fill `neighbors` with the nearest points to `point` [n_features], nearest first.

    The tree must hold at least k points.
    """
    # The library squares by libm's pow, which is slow, and whose last bit is not always that of a product.
    if not _search(tree, point, neighbors, None, _TOLERANCE):
        _search(tree, point, neighbors, tree.exponent, 0.0)
    introsort(neighbors.distances, neighbors.indices)
    for i in range(len(neighbors.distances)):
        neighbors.distances[i] = math.sqrt(neighbors.distances[i])


@njit(nogil=True, cache=True)
def _search(tree: KdTree, point: Floats, neighbors: Neighbors, exponent: float | None, tolerance: float) -> bool:
    """Fill the heap with the nearest points; False, half-way, at a decision closer than `tolerance`."""
    nodes, bounds = neighbors.pending_nodes, neighbors.pending_bounds
    neighbors.distances[:] = np.inf
    neighbors.indices[:] = 0
    nodes[0] = 0
    bounds[0] = _box_distance(tree, 0, point, exponent)
    n_pending = 1
    while n_pending:
        n_pending -= 1
        node, bound, farthest = nodes[n_pending], bounds[n_pending], neighbors.distances[0]
        if abs(bound - farthest) < tolerance * bound:
            return False
        if bound > farthest:
            continue
        left = 2 * node + 1
        right = left + 1
        if left >= len(tree.node_start):
            _search_leaf(tree, node, point, neighbors)
            continue
        left_bound = _box_distance(tree, left, point, exponent)
        right_bound = _box_distance(tree, right, point, exponent)
        if abs(left_bound - right_bound) < tolerance * left_bound:
            return False
        # The nearer child goes on top.
        if left_bound <= right_bound:
            nodes[n_pending], bounds[n_pending] = right, right_bound
            nodes[n_pending + 1], bounds[n_pending + 1] = left, left_bound
        else:
            nodes[n_pending], bounds[n_pending] = left, left_bound
            nodes[n_pending + 1], bounds[n_pending + 1] = right, right_bound
        n_pending += 2
    return True


@njit(nogil=True, cache=True)
def _box_distance(tree: KdTree, node: int, point: Floats, exponent: float | None) -> float:
    """Squared distance from a point to a node's box, 0 inside, by libm's pow if there is an exponent."""
    squared = 0.0
    for j in range(len(point)):
        coordinate = np.float64(point[j])
        gap = max(tree.node_lower[node, j] - coordinate, coordinate - tree.node_upper[node, j], 0.0)
        if exponent is None:
            squared += gap * gap
        else:
            squared += math.pow(gap, exponent)
    return squared


@njit(nogil=True, cache=True)
def _search_leaf(tree: KdTree, node: int, point: Floats, neighbors: Neighbors) -> None:
    start, stop = tree.node_start[node], tree.node_stop[node]
    squared = neighbors.leaf_distances[: stop - start]
    squared[:] = 0.0
    for j in range(len(point)):
        feature = tree.points[j, start:stop]
        coordinate = np.float64(point[j])
        for i in range(len(squared)):
            difference = coordinate - feature[i]
            squared[i] += difference * difference
    for i in range(len(squared)):
        if squared[i] < neighbors.distances[0]:
            replace_farthest(neighbors.distances, neighbors.indices, squared[i], start + i)


@njit(nogil=True, cache=True)
def replace_farthest(distances: Floats, indices: NDArray[np.int64], distance: float, index: int) -> None:
    """Put a nearer point into the max-heap in place of its farthest one."""
    size = len(distances)
    hole = 0
    while True:
        child = 2 * hole + 1
        if child + 1 < size and distances[child + 1] > distances[child]:
            child += 1
        if child >= size or distances[child] <= distance:
            break
        distances[hole] = distances[child]
        indices[hole] = indices[child]
        hole = child
    distances[hole] = distance
    indices[hole] = index
