"""The nearest points, fast, wherever neither rounding nor ties decide which they are.

Where no two distances are close, every exact search finds the same points. Here a tree of 16 children a node, made
from the leaves of a k-d tree, is searched with distances that are computed side by side in the precision of the
points. The search says whether its answer is beyond doubt; where it is not, `find_neighbors` of the k-d tree decides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ._kdtree import Floats, KdTree, replace_farthest

# Float32 values in the widest vector registers.
_WIDTH = 16


class WideTree(NamedTuple):
    """The leaves of a k-d tree below levels of 16 boxes a node, laid out for vector registers.

    A point is named by its slot: its leaf times the capacity of leaves plus its place there.

    Attributes
    ----------
    leaf_points : dtype of the points [n_leaves, n_features, capacity]
        Padded with inf.
    leaf_start : int32 [n_leaves]
        Column of the k-d tree's `points` that a leaf begins with.
    lower, upper : dtype of the points [n_groups, n_features, 16]
        Corners of the boxes of 16 leaves, or of 16 groups one level below. Padded with inf and -inf.
    level_start : int64 [n_levels]
        The first group of each level; on the last level there is but one.
    """

    leaf_points: Floats
    leaf_start: NDArray[np.int32]
    lower: Floats
    upper: Floats
    level_start: NDArray[np.int64]


class NearestSet(NamedTuple):
    """The k nearest points of one row in no order, and the working memory of the search for them.

    Attributes
    ----------
    squared_distances : float64 [k]
    columns : int64 [k]
    heap : dtype of the points [k + 1]
        Squared distances while searching, the farthest first, and
    slots : int64 [k + 1]
        the points at them.
    bounds : dtype of the points [n_levels, 16]
        Squared distances to the boxes of one group a level, inf once visited, and
    groups : int64 [n_levels]
        which group, counted from the level's first.
    leaf_distances : dtype of the points [capacity]
    """

    squared_distances: NDArray[np.float64]
    columns: NDArray[np.int64]
    heap: Floats
    slots: NDArray[np.int64]
    bounds: Floats
    groups: NDArray[np.int64]
    leaf_distances: Floats


def widen(tree: KdTree) -> WideTree:
    """The wide tree over the leaves of `tree`."""
    n_leaves = (len(tree.node_start) + 1) // 2
    starts, stops = tree.node_start[-n_leaves:], tree.node_stop[-n_leaves:]
    capacity = -(-int((stops - starts).max()) // _WIDTH) * _WIDTH
    leaf_points = np.full((n_leaves, len(tree.points), capacity), np.inf, tree.points.dtype)
    for leaf, start, stop in zip(leaf_points, starts, stops, strict=True):
        leaf[:, : stop - start] = tree.points[:, start:stop]
    levels = [(_in_groups(tree.node_lower[-n_leaves:], np.inf), _in_groups(tree.node_upper[-n_leaves:], -np.inf))]
    while len(levels[-1][0]) > 1:
        lower, upper = levels[-1]
        levels.append((_in_groups(lower.min(axis=2), np.inf), _in_groups(upper.max(axis=2), -np.inf)))
    lowers, uppers = zip(*levels, strict=True)
    level_start = np.cumsum([0, *map(len, lowers[:-1])])
    return WideTree(leaf_points, starts, np.concatenate(lowers), np.concatenate(uppers), level_start)


def _in_groups(corners: Floats, padding: float) -> Floats:
    """[n_boxes, n_features] as [n_groups, n_features, 16]."""
    corners = np.pad(corners, ((0, -len(corners) % _WIDTH), (0, 0)), constant_values=padding)
    return np.ascontiguousarray(corners.reshape(-1, _WIDTH, corners.shape[1]).transpose(0, 2, 1))


@njit(nogil=True, cache=True)
def allocate_nearest_set(tree: WideTree, k: int) -> NearestSet:
    """Working memory for the `k` nearest points of one row after another, k >= 2."""
    dtype, n_levels = tree.lower.dtype, len(tree.level_start)
    return NearestSet(
        np.empty(k, np.float64),
        np.empty(k, np.int64),
        # One more point shows by which margin the others are nearer.
        np.empty(k + 1, dtype),
        np.empty(k + 1, np.int64),
        np.empty((n_levels, _WIDTH), dtype),
        np.empty(n_levels, np.int64),
        np.empty(tree.leaf_points.shape[2], dtype),
    )


@njit(nogil=True, cache=True)
def find_nearest_set(tree: WideTree, point: Floats, nearest: NearestSet) -> bool:
    """Fill `nearest` with the nearest points to `point` [n_features]; False where rounding could decide which.

    The tree must hold at least k points. Distances are those of `find_neighbors`, to the bit.
    """
    squared_distances, columns, heap, slots = nearest[:4]
    leaf_points, leaf_start = tree[:2]
    _search_wide(tree, point, nearest)
    if not _is_apart(heap, len(point)):
        return False
    for i in range(len(columns)):
        leaf, place = divmod(slots[i + 1], leaf_points.shape[2])
        columns[i] = leaf_start[leaf] + place
        squared_distances[i] = _squared_distance(leaf_points, leaf, place, point)
    return True


@njit(nogil=True, cache=True)
def _search_wide(tree: WideTree, point: Floats, nearest: NearestSet) -> None:
    """Fill the heap, depth first and the nearest box of a group first."""
    # Taking an array out of a tuple, or a part of an array, counts a reference: an atomic operation on memory
    # that threads share, so it is done once a row.
    leaf_points, _, lower, upper, level_start = tree
    _, _, heap, slots, bounds, groups, leaf_distances = nearest
    heap[:] = np.inf
    top = len(level_start) - 1
    level = top
    groups[top] = 0
    _measure_boxes(lower, upper, level_start[top], point, bounds, top)
    while level <= top:
        closest = _argmin(bounds, level)
        if bounds[level, closest] >= heap[0]:
            level += 1
            continue
        bounds[level, closest] = np.inf
        box = groups[level] * _WIDTH + closest
        if level == 0:
            _search_wide_leaf(leaf_points, box, point, leaf_distances, heap, slots)
        else:
            level -= 1
            groups[level] = box
            _measure_boxes(lower, upper, level_start[level] + box, point, bounds, level)


@njit(nogil=True, cache=True)
def _search_wide_leaf(
    leaf_points: Floats, leaf: int, point: Floats, squared: Floats, heap: Floats, slots: NDArray[np.int64]
) -> None:
    _measure_points(leaf_points, leaf, point, squared)
    if not _any_below(squared, heap[0]):
        return
    for i in range(len(squared)):
        if squared[i] < heap[0]:
            replace_farthest(heap, slots, squared[i], leaf * len(squared) + i)


@njit(nogil=True, cache=True)
def _is_apart(heap: Floats, n_features: int) -> bool:
    """Whether the farthest of a heap, and with it every point left out, is surely farther than the others."""
    dtype = heap.dtype.type
    # A distance and a bound are each off by one rounding of the difference, the square and every sum.
    margin = dtype(1.0 + 4 * (n_features + 4) * np.finfo(np.float32).eps)
    # Squares below the smallest normal number are off by more.
    return bool(heap[0] > max(heap[1], heap[2]) * margin + dtype(np.finfo(np.float32).tiny))


# `_is_apart` leaves room for any order of rounding, and no NaN arises.
@njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def _measure_boxes(lower: Floats, upper: Floats, group: int, point: Floats, bounds: Floats, level: int) -> None:
    """Fill `bounds[level]` with the squared distances from a point to the boxes of a group."""
    for i in range(bounds.shape[1]):
        bounds[level, i] = 0.0
    for j in range(len(point)):
        for i in range(bounds.shape[1]):
            gap = max(max(lower[group, j, i] - point[j], point[j] - upper[group, j, i]), bounds.dtype.type(0.0))
            bounds[level, i] += gap * gap


@njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def _measure_points(leaf_points: Floats, leaf: int, point: Floats, squared: Floats) -> None:
    """Fill `squared` [capacity] with the squared distances from a point to those of a leaf."""
    for i in range(len(squared)):
        squared[i] = 0.0
    for j in range(len(point)):
        for i in range(len(squared)):
            difference = leaf_points[leaf, j, i] - point[j]
            squared[i] += difference * difference


@njit(nogil=True, cache=True)
def _any_below(values: Floats, limit: float) -> bool:
    # A sum, unlike a search that ends early, is taken in vector registers.
    n_below = 0
    for i in range(len(values)):
        n_below += values[i] < limit
    return n_below > 0


@njit(nogil=True, cache=True)
def _argmin(values: Floats, row: int) -> int:
    smallest = 0
    for i in range(1, values.shape[1]):
        if values[row, i] < values[row, smallest]:
            smallest = i
    return smallest


@njit(nogil=True, cache=True)
def _squared_distance(leaf_points: Floats, leaf: int, place: int, point: Floats) -> float:
    squared = 0.0
    for j in range(len(point)):
        difference = np.float64(point[j]) - np.float64(leaf_points[leaf, j, place])
        squared += float(difference * difference)
    return squared
