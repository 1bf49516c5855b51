"""From reduced coordinates to topics: HDBSCAN's clusters, renamed and summed as BERTopic does.

BERTopic numbers topics by size and lets users merge and reduce them; what was cluster c at training is
topic `mapping[c]` now (`BERTopic._map_predictions`, `BERTopic._map_probabilities`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .hdbscan import HdbscanPredictor
from .storage import load_json, save_json

OUTLIER = -1


class TopicPredictor:
    """Reduced coordinates in, topics out.

    Parameters
    ----------
    hdbscan : HdbscanPredictor
    mapping : mapping of int to int
        Topic of each cluster, and of -1; what is missing is an outlier.
    """

    def __init__(self, hdbscan: HdbscanPredictor, mapping: Mapping[int, int]) -> None:
        self.hdbscan = hdbscan
        self.mapping = {int(cluster): int(topic) for cluster, topic in mapping.items()}
        self.n_topics = len(set(self.mapping.values()) - {OUTLIER})
        # One slot more than clusters, so that label -1 finds its topic at the end of the array.
        clusters = [*range(hdbscan.n_clusters), OUTLIER]
        self._topic_of = np.array([self.mapping.get(cluster, OUTLIER) for cluster in clusters], dtype=np.int32)

    def check(self, reduced: NDArray[Any]) -> None:
        """Raise InvalidInput unless `reduced` is float32 [n, n_components] without NaN and Inf."""
        self.hdbscan.check(reduced)

    def predict(self, reduced: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Topic and probability of each row.

        Parameters
        ----------
        reduced : float32 [n, n_components]

        Returns
        -------
        topics : int32 [n], -1 for an outlier
        probabilities : float32 [n], of the cluster that the row was assigned to

        Raises
        ------
        InvalidInput
            Wrong shape or dtype, NaN or Inf.
        """
        labels, probabilities = self.hdbscan.predict(reduced)
        return self._topic_of[labels], probabilities.astype(np.float32)

    def membership(self, reduced: NDArray[np.float32]) -> NDArray[np.float32]:
        """Membership of each row in every topic, float32 [n, n_topics]: that of its clusters, summed."""
        return self.hdbscan.grouped_membership(reduced, self._topic_of[:-1], self.n_topics)

    def save(self, folder: Path) -> None:
        """Write into `folder`: HDBSCAN's files and `mapping.json`."""
        self.hdbscan.save(folder)
        save_json(folder / "mapping.json", sorted(self.mapping.items()))

    @classmethod
    def load(cls, folder: Path) -> TopicPredictor:
        """Read what `save` wrote."""
        pairs: list[Any] = load_json(folder / "mapping.json")
        return cls(HdbscanPredictor.load(folder), dict(pairs))
