"""How much a new point belongs to every cluster, as hdbscan.prediction.membership_vector weighs it.

A row's membership in the selected clusters is sqrt(D) * O^2, scaled to sum to the probability P of being in
any cluster at all. D falls with the distance to each cluster's exemplars, its densest points; O rises with
the lambda at which the row and the cluster are still one in the hierarchy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ._condensed_tree import CondensedTree, allocate_search, attach
from ._kdtree import Floats, KdTree
from ._wide_tree import WideTree

_LARGEST = np.finfo(np.float64).max
# Merge height of a cluster that is an ancestor or a descendant of the row's: the row's own lambda.
_OWN_LAMBDA = -1.0


class Exemplars(NamedTuple):
    """The selected clusters, by label, and their exemplars.

    Attributes
    ----------
    exemplar_points : float32 or float64 [n_features, n_exemplars]
        Exemplars of one cluster after those of another.
    exemplar_indptr : int32 [n_clusters + 1]
        Cluster i has the columns `exemplar_indptr[i]:exemplar_indptr[i + 1]`.
    selected_clusters : int32 [n_clusters]
        The cluster of the condensed tree behind each label.
    """

    exemplar_points: Floats
    exemplar_indptr: NDArray[np.int32]
    selected_clusters: NDArray[np.int32]


@njit(nogil=True, cache=True, error_model="numpy")
def membership_rows(
    points: NDArray[np.float32],
    kd_tree: KdTree,
    wide_tree: WideTree,
    hierarchy: CondensedTree,
    exemplars: Exemplars,
    min_samples: int,
    groups: NDArray[np.int32],
    membership: Floats,
) -> None:
    """Add the memberships of `points` [n, n_features] to `membership` [n, n_groups]; at least one cluster.

    `groups` [n_clusters] are the columns that the clusters are added to, negative for none.
    """
    core_distances = hierarchy.core_distances
    nearest, neighbors = allocate_search(kd_tree, wide_tree, min_samples)
    exemplar_distances = np.empty(exemplars.exemplar_points.shape[1], np.float64)
    heights = np.empty(len(hierarchy.cluster_parent), np.float64)
    similarity = np.empty(len(groups), np.float64)
    of_clusters = np.empty(len(groups), np.float64)
    for row in range(len(points)):
        neighbor, lambda_ = attach(points[row], kd_tree, wide_tree, core_distances, nearest, neighbors)
        lambda_ = min(lambda_, hierarchy.point_lambda[neighbor])
        cluster = hierarchy.point_parent[neighbor]
        _exemplar_similarity(exemplars, points[row], exemplar_distances, similarity)
        _merge_heights(hierarchy, cluster, heights)
        _hierarchy_similarity(
            heights, exemplars.selected_clusters, lambda_, hierarchy.cluster_max_lambda[cluster], of_clusters
        )
        for i in range(len(groups)):
            of_clusters[i] = math.sqrt(similarity[i]) * of_clusters[i] ** 2
        probability = _probability_in_any(heights, exemplars.selected_clusters, lambda_, hierarchy.cluster_max_lambda)
        of_clusters /= of_clusters.sum()
        for i in range(len(groups)):
            if groups[i] >= 0:
                membership[row, groups[i]] += of_clusters[i] * probability


@njit(nogil=True, cache=True, error_model="numpy")
def _exemplar_similarity(
    exemplars: Exemplars, point: Floats, squared: NDArray[np.float64], similarity: NDArray[np.float64]
) -> None:
    """Inverse distance to the nearest exemplar of each cluster, scaled to a sum of one."""
    squared[:] = 0.0
    for j in range(len(point)):
        feature = exemplars.exemplar_points[j]
        coordinate = np.float64(point[j])
        for i in range(len(squared)):
            difference = coordinate - feature[i]
            squared[i] += difference * difference
    for i in range(len(similarity)):
        nearest = _LARGEST
        for distance in squared[exemplars.exemplar_indptr[i] : exemplars.exemplar_indptr[i + 1]]:
            nearest = min(nearest, distance)
        similarity[i] = 1.0 / math.sqrt(nearest) if nearest > 0.0 else _LARGEST / len(similarity)
    similarity /= similarity.sum()


@njit(nogil=True, cache=True)
def _merge_heights(hierarchy: CondensedTree, cluster: int, heights: NDArray[np.float64]) -> None:
    """Lambda at which every cluster [c] parts from `cluster`, or `_OWN_LAMBDA` where one holds the other.

    One pass down the tree: a cluster beside the path from the root to `cluster` parts where it splits off
    that path, and all its descendants with it.
    """
    heights[:] = 0.0
    ancestor = cluster
    while ancestor >= 0:
        heights[ancestor] = _OWN_LAMBDA
        ancestor = hierarchy.cluster_parent[ancestor]
    for other in range(1, len(heights)):
        if heights[other] == _OWN_LAMBDA:
            continue
        parent = hierarchy.cluster_parent[other]
        splits_off = heights[parent] == _OWN_LAMBDA and parent < cluster
        heights[other] = hierarchy.cluster_lambda[other] if splits_off else heights[parent]


@njit(nogil=True, cache=True, error_model="numpy")
def _hierarchy_similarity(
    heights: NDArray[np.float64],
    selected_clusters: NDArray[np.int32],
    lambda_: float,
    max_lambda: float,
    similarity: NDArray[np.float64],
) -> None:
    """Softmax over the selected clusters of max_lambda / (max_lambda - merge height)."""
    # The library passes the row's lambda through float32 here, and only here.
    own_lambda = np.float64(np.float32(lambda_))
    largest = -np.inf
    for i in range(len(similarity)):
        height = heights[selected_clusters[i]]
        excess = max_lambda - (own_lambda if height == _OWN_LAMBDA else height)
        similarity[i] = max_lambda / (1e-8 if excess <= 0.0 else excess)
        if similarity[i] > largest:
            largest = similarity[i]
    for i in range(len(similarity)):
        similarity[i] = math.exp(similarity[i] - largest)
    similarity /= similarity.sum()


@njit(nogil=True, cache=True, error_model="numpy")
def _probability_in_any(
    heights: NDArray[np.float64],
    selected_clusters: NDArray[np.int32],
    lambda_: float,
    cluster_max_lambda: NDArray[np.float64],
) -> float:
    """The row's merge height with its closest cluster, relative to the largest lambda there."""
    highest = -np.inf
    closest = 0
    for selected in selected_clusters:
        height = lambda_ if heights[selected] == _OWN_LAMBDA else heights[selected]
        if height > highest:
            highest, closest = height, selected
    return float(highest / (max(lambda_, cluster_max_lambda[closest]) + 1e-8))
