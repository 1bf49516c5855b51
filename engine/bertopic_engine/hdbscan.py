"""HDBSCAN's prediction for new points: labels and probabilities exactly as the hdbscan library gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._condensed_tree import CondensedTree, predict_rows
from ._exceptions import InvalidInput, StorageError
from ._kdtree import KdTree
from ._membership import Exemplars, membership_rows
from ._wide_tree import widen
from .storage import load_arrays, load_json, save_arrays, save_json
from .threads import for_rows

__all__ = ["CondensedTree", "Exemplars", "HdbscanPredictor", "KdTree"]

_ARRAYS = "hdbscan.safetensors"
_SETTINGS = "hdbscan.json"
# What another thread takes over has to be worth waking it.
_SMALLEST_RANGE = 32


class HdbscanPredictor:
    """Labels, probabilities and memberships of new points under a fitted HDBSCAN with Euclidean distances.

    A row's answer depends on the row alone, to the bit, whatever its batch and the number of threads.

    Parameters
    ----------
    kd_tree : KdTree
        The training points, at least 2 * `min_samples` of them.
    hierarchy : CondensedTree
        Its points in the order of the k-d tree.
    exemplars : Exemplars
    min_samples : int
    """

    def __init__(self, kd_tree: KdTree, hierarchy: CondensedTree, exemplars: Exemplars, *, min_samples: int) -> None:
        self._kd_tree = kd_tree
        self._wide_tree = widen(kd_tree)
        self._hierarchy = hierarchy
        self._exemplars = exemplars
        self._min_samples = min_samples

    @property
    def n_features(self) -> int:
        """Dimensions of a point."""
        return int(self._kd_tree.points.shape[0])

    @property
    def n_clusters(self) -> int:
        """Clusters that points can belong to: the columns of `membership`."""
        return len(self._exemplars.selected_clusters)

    def check(self, points: NDArray[Any]) -> None:
        """Raise InvalidInput unless `points` is float32 [n, n_features] without NaN and Inf."""
        if points.ndim != 2 or points.shape[1] != self.n_features:
            raise InvalidInput(
                f"points have the shape {points.shape}, expected (n, {self.n_features}): "
                f"HDBSCAN was fitted on {self.n_features} features. Reduce them with the model's own UMAP."
            )
        if points.dtype != np.float32:
            raise InvalidInput(f"points are {points.dtype}, expected float32. Convert them with astype(np.float32).")
        finite = np.isfinite(points).all(axis=1)
        if not finite.all():
            raise InvalidInput(
                f"row {int(finite.argmin())} of the points holds NaN or Inf, expected finite numbers. Remove that row."
            )

    def predict(self, points: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Cluster and probability of each point, those of `hdbscan.approximate_predict`.

        Parameters
        ----------
        points : float32 [n, n_features]

        Returns
        -------
        labels : int32 [n], -1 for noise
        probabilities : float64 [n], 0 for noise

        Raises
        ------
        InvalidInput
            See `check`.
        """
        self.check(points)
        points = np.ascontiguousarray(points)
        labels = np.empty(len(points), np.int32)
        probabilities = np.empty(len(points), np.float64)

        def work(start: int, stop: int) -> None:
            rows = slice(start, stop)
            predict_rows(
                points[rows],
                self._kd_tree,
                self._wide_tree,
                self._hierarchy,
                self._min_samples,
                labels[rows],
                probabilities[rows],
            )

        for_rows(work, len(points), smallest=_SMALLEST_RANGE)
        return labels, probabilities

    def membership(self, points: NDArray[np.float32]) -> NDArray[np.float64]:
        """Membership of each point in every cluster, that of `hdbscan.membership_vector`.

        Parameters
        ----------
        points : float32 [n, n_features]

        Returns
        -------
        float64 [n, n_clusters]
            A row sums to the probability of being in any cluster. All zero where the hierarchy has no
            split, since `predict` calls every point noise then. NaN, as in the library, in the rows of a
            cluster whose largest lambda is infinite: it holds more than min_samples identical points.

        Raises
        ------
        InvalidInput
            See `check`.
        """
        membership = np.zeros((len(points), self.n_clusters), np.float64)
        self._add_membership(points, np.arange(self.n_clusters, dtype=np.int32), membership)
        return membership

    def grouped_membership(
        self, points: NDArray[np.float32], groups: NDArray[np.int32], n_groups: int
    ) -> NDArray[np.float32]:
        """Membership of each point in groups of clusters: the sum of that in each of them.

        Working memory beyond the answer does not depend on the number of points.

        Parameters
        ----------
        points : float32 [n, n_features]
        groups : int32 [n_clusters]
            Group of each cluster, negative for none.
        n_groups : int

        Returns
        -------
        float32 [n, n_groups]

        Raises
        ------
        InvalidInput
            See `check`; or `groups` has another shape or a group beyond the last.
        """
        if groups.shape != (self.n_clusters,) or (groups >= n_groups).any():
            raise InvalidInput(
                f"groups have the shape {groups.shape} and reach up to {groups.max(initial=-1)}, expected the shape "
                f"({self.n_clusters},) and less than {n_groups}. Give every cluster one of the {n_groups} groups."
            )
        membership = np.zeros((len(points), n_groups), np.float32)
        self._add_membership(points, groups, membership)
        return membership

    def _add_membership(
        self, points: NDArray[np.float32], groups: NDArray[np.int32], membership: NDArray[np.floating[Any]]
    ) -> None:
        self.check(points)
        if self.n_clusters == 0 or len(self._hierarchy.cluster_parent) == 1:
            return
        points = np.ascontiguousarray(points)

        def work(start: int, stop: int) -> None:
            rows = slice(start, stop)
            membership_rows(
                points[rows],
                self._kd_tree,
                self._wide_tree,
                self._hierarchy,
                self._exemplars,
                self._min_samples,
                groups,
                membership[rows],
            )

        for_rows(work, len(points), smallest=_SMALLEST_RANGE)

    def save(self, folder: Path) -> None:
        """Write `hdbscan.safetensors` and `hdbscan.json` into `folder`."""
        parts = (self._kd_tree, self._hierarchy, self._exemplars)
        save_arrays(folder / _ARRAYS, {name: getattr(part, name) for part in parts for name in _stored(type(part))})
        save_json(folder / _SETTINGS, {"min_samples": self._min_samples})

    @classmethod
    def load(cls, folder: Path) -> HdbscanPredictor:
        """Read what `save` wrote.

        Raises
        ------
        StorageError
            A file is missing, unreadable or incomplete.
        """
        arrays: dict[str, Any] = load_arrays(folder / _ARRAYS)
        settings = load_json(folder / _SETTINGS)
        try:
            return cls(
                KdTree(**{name: arrays[name] for name in _stored(KdTree)}),
                CondensedTree(**{name: arrays[name] for name in _stored(CondensedTree)}),
                Exemplars(**{name: arrays[name] for name in _stored(Exemplars)}),
                min_samples=settings["min_samples"],
            )
        except KeyError as error:
            raise StorageError(f"{folder} holds no {error} for HDBSCAN. Convert the model again.") from error


def _stored(kind: type[KdTree] | type[CondensedTree] | type[Exemplars]) -> list[str]:
    """Fields that differ from model to model."""
    return [name for name in kind._fields if name not in kind._field_defaults]
