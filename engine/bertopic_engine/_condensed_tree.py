"""Where a new point falls in HDBSCAN's hierarchy, as hdbscan.prediction.approximate_predict decides it.

The point hangs on the training point that is nearest by mutual reachability, max(core(x), core(y), |x - y|),
at lambda = 1 / distance, and belongs to the cluster which holds that training point at that lambda.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ._kdtree import Floats, KdTree, Neighbors, allocate_neighbors, find_neighbors
from ._wide_tree import NearestSet, WideTree, allocate_nearest_set, find_nearest_set

# What the library takes for 1 / 0 here.
_LARGEST_LAMBDA = np.finfo(np.float64).max


class CondensedTree(NamedTuple):
    """The condensed hierarchy of n points and c clusters; cluster 0 is the root, parents precede children.

    Attributes
    ----------
    core_distances : float64 [n]
        Distance of each training point to its min_samples-th neighbour. Points are in the order of the
        k-d tree here and below.
    point_parent : int32 [n]
        The cluster that each point falls out of, and
    point_lambda : float64 [n]
        the lambda at which it does; inf among identical points.
    cluster_parent : int32 [c]
        -1 for the root.
    cluster_lambda : float64 [c]
        Lambda at which a cluster splits off its parent; 0 for the root.
    cluster_label : int32 [c]
        Label of the selected cluster that a cluster is or descends from, else -1.
    label_max_lambda : float64 [c]
        Largest lambda in that selected cluster itself.
    cluster_max_lambda : float64 [c]
        Largest lambda in the cluster itself.
    """

    core_distances: NDArray[np.float64]
    point_parent: NDArray[np.int32]
    point_lambda: NDArray[np.float64]
    cluster_parent: NDArray[np.int32]
    cluster_lambda: NDArray[np.float64]
    cluster_label: NDArray[np.int32]
    label_max_lambda: NDArray[np.float64]
    cluster_max_lambda: NDArray[np.float64]


@njit(nogil=True, cache=True)
def allocate_search(kd_tree: KdTree, wide_tree: WideTree, min_samples: int) -> tuple[NearestSet, Neighbors]:
    """Working memory of `attach` for one row after another."""
    # A new point's core distance reaches one point further: it is not among the training points itself.
    return allocate_nearest_set(wide_tree, min_samples + 1), allocate_neighbors(kd_tree, 2 * min_samples)


@njit(nogil=True, cache=True)
def predict_rows(
    points: NDArray[np.float32],
    kd_tree: KdTree,
    wide_tree: WideTree,
    hierarchy: CondensedTree,
    min_samples: int,
    labels: NDArray[np.int32],
    probabilities: NDArray[np.float64],
) -> None:
    """Fill `labels` [n] and `probabilities` [n] for `points` [n, n_features]."""
    core_distances = hierarchy.core_distances
    nearest, neighbors = allocate_search(kd_tree, wide_tree, min_samples)
    for row in range(len(points)):
        neighbor, lambda_ = attach(points[row], kd_tree, wide_tree, core_distances, nearest, neighbors)
        cluster = _cluster_at(hierarchy, neighbor, lambda_)
        labels[row] = hierarchy.cluster_label[cluster]
        probabilities[row] = _probability(hierarchy, cluster, lambda_)


@njit(nogil=True, cache=True)
def attach(
    point: Floats,
    kd_tree: KdTree,
    wide_tree: WideTree,
    core_distances: NDArray[np.float64],
    nearest: NearestSet,
    neighbors: Neighbors,
) -> tuple[int, float]:
    """The training point that a row hangs on, the first of equals, and the row's lambda."""
    neighbor, reachability = -1, 0.0
    if find_nearest_set(wide_tree, point, nearest):
        neighbor, reachability = _nearest_within_core(nearest, core_distances)
    if neighbor < 0:
        find_neighbors(kd_tree, point, neighbors)
        neighbor, reachability = _nearest_reachable(neighbors, core_distances)
    lambda_ = 1.0 / reachability if reachability > 0.0 else _LARGEST_LAMBDA
    return neighbor, float(lambda_)


@njit(nogil=True, cache=True)
def _nearest_within_core(nearest: NearestSet, core_distances: NDArray[np.float64]) -> tuple[int, float]:
    """The nearest point within the row's core distance whose own is no larger, and the row's, their reachability.

    No point is reached at less. -1 where there is none, or where the sort of equals would tell.
    """
    squared_distances, columns = nearest[:2]
    farthest = 0.0
    for squared in squared_distances:
        farthest = max(farthest, squared)
    core_distance = math.sqrt(farthest)
    neighbor = -1
    smallest = np.inf
    for i in range(len(columns)):
        if squared_distances[i] > smallest or core_distances[columns[i]] > core_distance:
            continue
        neighbor = -1 if squared_distances[i] == smallest else columns[i]
        smallest = squared_distances[i]
    return neighbor, core_distance


@njit(nogil=True, cache=True)
def _nearest_reachable(neighbors: Neighbors, core_distances: NDArray[np.float64]) -> tuple[int, float]:
    """The first of the neighbours with the smallest mutual reachability, and that."""
    distances, indices = neighbors[:2]
    core_distance = distances[len(distances) // 2]
    nearest = 0
    smallest = np.inf
    for i in range(len(distances)):
        reachability = max(core_distances[indices[i]], core_distance, distances[i])
        if reachability < smallest:
            nearest, smallest = i, reachability
    return indices[nearest], smallest


@njit(nogil=True, cache=True)
def _cluster_at(hierarchy: CondensedTree, neighbor: int, lambda_: float) -> int:
    """The cluster that holds `neighbor` at `lambda_`."""
    cluster = int(hierarchy.point_parent[neighbor])
    if hierarchy.point_lambda[neighbor] > lambda_:
        while cluster > 0 and hierarchy.cluster_lambda[cluster] >= lambda_:
            cluster = int(hierarchy.cluster_parent[cluster])
    return cluster


@njit(nogil=True, cache=True, error_model="numpy")
def _probability(hierarchy: CondensedTree, cluster: int, lambda_: float) -> float:
    if hierarchy.cluster_label[cluster] < 0:
        return 0.0
    max_lambda = float(hierarchy.label_max_lambda[cluster])
    if max_lambda <= 0.0:
        return 1.0
    return min(max_lambda, lambda_) / max_lambda
