"""A fitted hdbscan.HDBSCAN as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from bertopic_engine.hdbscan import CondensedTree, Exemplars, HdbscanPredictor, KdTree
from numpy.typing import NDArray

from ._exceptions import UnsupportedModel


def read_hdbscan(clusterer: Any) -> HdbscanPredictor:
    """What a clusterer needs for prediction.

    Parameters
    ----------
    clusterer : hdbscan.HDBSCAN
        One of cuML's becomes that by `from_cuml`. Fitted with Euclidean distances, with prediction data.

    Raises
    ------
    UnsupportedModel
        Another class, another metric, no prediction data, or too few training points.
    """
    _require_supported(clusterer)
    data = clusterer.prediction_data_
    min_samples = int(clusterer.min_samples or clusterer.min_cluster_size)
    if len(data.raw_data) < 2 * min_samples:
        raise UnsupportedModel(
            f"HDBSCAN was fitted on {len(data.raw_data)} points with min_samples={min_samples}, and predicting "
            f"takes at least {2 * min_samples}. Fit it on more points or with a smaller min_samples."
        )
    kd_tree, order = read_kd_tree(data.tree)
    exemplars = np.vstack([np.empty((0, len(kd_tree.points))), *data.exemplars])
    return HdbscanPredictor(
        kd_tree,
        _read_hierarchy(clusterer.condensed_tree_.to_numpy(), data, order),
        Exemplars(
            exemplar_points=np.ascontiguousarray(exemplars.T, dtype=kd_tree.points.dtype),
            exemplar_indptr=np.cumsum([0, *map(len, data.exemplars)], dtype=np.int32),
            selected_clusters=np.array(
                [data.reverse_cluster_map[label] - len(order) for label in range(len(data.exemplars))], dtype=np.int32
            ),
        ),
        min_samples=min_samples,
    )


def read_kd_tree(tree: Any) -> tuple[KdTree, NDArray[np.intp]]:
    """A Euclidean sklearn.neighbors.KDTree as arrays, and the training point behind each of its columns."""
    points, order, nodes, (lower, upper) = tree.get_arrays()
    # UMAP's output is float32, which hdbscan widens.
    dtype = np.float32 if np.array_equal(points, points.astype(np.float32)) else np.float64
    kd_tree = KdTree(
        points=np.ascontiguousarray(points[order].T, dtype=dtype),
        node_lower=lower.astype(dtype),
        node_upper=upper.astype(dtype),
        node_start=nodes["idx_start"].astype(np.int32),
        node_stop=nodes["idx_end"].astype(np.int32),
    )
    return kd_tree, order


def _require_supported(clusterer: Any) -> None:
    import hdbscan

    if not isinstance(clusterer, hdbscan.HDBSCAN):
        given = f"{type(clusterer).__module__}.{type(clusterer).__qualname__}"
        raise UnsupportedModel(
            f"the model clusters with {given}, which cannot be served. Supported are hdbscan.HDBSCAN and "
            "cuml.cluster.HDBSCAN."
        )
    euclidean = clusterer.metric in ("euclidean", "l2") or (clusterer.metric in ("minkowski", "p") and clusterer.p == 2)
    if not euclidean:
        p = f" with p={clusterer.p}" if clusterer.p is not None else ""
        raise UnsupportedModel(
            f"HDBSCAN was fitted with the metric {clusterer.metric!r}{p}. "
            "Supported are 'euclidean', 'l2' and 'minkowski' with p=2."
        )
    if getattr(clusterer, "prediction_data_", None) is None:
        raise UnsupportedModel(
            "HDBSCAN has no prediction data, without which it cannot place new points. Fit it with "
            "hdbscan.HDBSCAN(..., prediction_data=True), or call clusterer.generate_prediction_data() "
            "on the fitted one and save the model again."
        )


def _read_hierarchy(edges: NDArray[Any], data: Any, order: NDArray[np.intp]) -> CondensedTree:
    """From edges (parent, child, lambda_val, child_size), where the clusters' numbers follow the points'."""
    root = len(order)
    of_cluster = edges["child"] >= root
    points, clusters = edges[~of_cluster], edges[of_cluster]
    points = points[np.argsort(points["child"])[order]]
    n_clusters = int(edges["parent"].max()) + 1 - root
    # The library places no point in a hierarchy without splits.
    labels = data.cluster_map if len(clusters) else {}

    def per_cluster(values: Mapping[int, float], missing: float) -> NDArray[np.float64]:
        return np.array([values.get(root + i, missing) for i in range(n_clusters)], dtype=np.float64)

    parents = dict(zip(clusters["child"], clusters["parent"] - root, strict=True))
    lambdas = dict(zip(clusters["child"], clusters["lambda_val"], strict=True))
    return CondensedTree(
        core_distances=data.core_distances[order],
        point_parent=(points["parent"] - root).astype(np.int32),
        point_lambda=points["lambda_val"].copy(),
        cluster_parent=per_cluster(parents, missing=-1).astype(np.int32),
        cluster_lambda=per_cluster(lambdas, missing=0),
        cluster_label=per_cluster(labels, missing=-1).astype(np.int32),
        label_max_lambda=per_cluster(data.max_lambdas, missing=0),
        cluster_max_lambda=per_cluster(data.leaf_max_lambdas, missing=0),
    )
