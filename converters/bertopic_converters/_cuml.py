"""Models that cuML trained on a GPU, as the readers of umap-learn's and hdbscan's models know theirs."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._exceptions import UnsupportedModel


class CumlUmap:
    """What a `cuml.manifold.UMAP` holds, under the names that umap-learn has for it; transforming is left to cuML.

    Parameters
    ----------
    trained : cuml.manifold.UMAP
        Fitted.
    """

    # What umap-learn offers and cuML does not, at umap-learn's defaults.
    densmap = False
    output_metric = "euclidean"
    transform_mode = "embedding"
    transform_seed = 42
    # cuML connects neighbours however far they are,
    _disconnection_distance = np.inf
    # and compares a new row with every training row.
    _small_data = True

    def __init__(self, trained: Any) -> None:
        from cuml import using_output_type

        self._trained = trained
        self.metric = trained.metric
        self.n_epochs = trained.n_epochs
        self.negative_sample_rate = trained.negative_sample_rate
        self.repulsion_strength = trained.repulsion_strength
        self.local_connectivity = trained.local_connectivity
        with using_output_type("numpy"):
            self.embedding_ = trained.embedding_
        self._raw_data = trained._raw_data.to_output("numpy")
        self._sparse_data = trained._sparse_data
        self._n_neighbors = trained._n_neighbors
        self._a, self._b = trained._a, trained._b
        self._initial_alpha = trained.learning_rate

    def transform(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Place rows as cuML does, with random numbers from `transform_seed`.

        Parameters
        ----------
        embeddings : float32 [m, dim]

        Returns
        -------
        float32 [m, n_components]
        """
        from cuml import using_output_type

        seeded = copy(self._trained)
        seeded.random_state = self.transform_seed
        # Rows that equal the training data would be answered from memory.
        seeded.hash_input = False
        with using_output_type("numpy"):
            places: NDArray[np.float32] = seeded.transform(embeddings)
        return places


def from_cuml(model: Any) -> Any:
    """What stands for a UMAP or an HDBSCAN that cuML trained; any other model as it is.

    Parameters
    ----------
    model : object

    Returns
    -------
    CumlUmap, hdbscan.HDBSCAN or `model`

    Raises
    ------
    UnsupportedModel
        It is not fitted, or of a version of cuML that keeps what it learned in another way.
    """
    if not _is_cuml(model):
        return model
    import cuml
    from cuml.cluster import HDBSCAN
    from cuml.manifold import UMAP

    read = next((read for kind, read in ((UMAP, CumlUmap), (HDBSCAN, _hdbscan)) if isinstance(model, kind)), None)
    if read is None:
        return model
    name = f"cuML {type(model).__name__}"
    if getattr(model, "n_features_in_", None) is None:
        raise UnsupportedModel(f"The {name} has not been fitted; a fitted one is needed. Fit BERTopic first.")
    try:
        return read(model)
    except (AttributeError, KeyError) as error:
        raise UnsupportedModel(
            f"The {name}, read with cuML {cuml.__version__}, lacks what cuML 25.12 to 26.6 keep ({error}). Train it, "
            "and convert it, with one of those."
        ) from error


def cuml_version(*models: Any) -> dict[str, str]:
    """What a manifest says of models of which cuML trained one: the version that they were read with."""
    if not any(map(_is_cuml, models)):
        return {}
    import cuml

    return {"cuml": cuml.__version__}


def _is_cuml(model: Any) -> bool:
    return type(model).__module__.partition(".")[0] == "cuml"


def _hdbscan(trained: Any) -> Any:
    """A fitted cuml.cluster.HDBSCAN as hdbscan's."""
    from cuml import using_output_type
    from cupy import asnumpy
    from hdbscan import HDBSCAN

    state = trained.__getstate__()["_state_dict"]
    model = HDBSCAN(
        min_cluster_size=trained.min_cluster_size,
        min_samples=trained.min_samples,
        metric=trained.metric,
        cluster_selection_method=trained.cluster_selection_method,
        allow_single_cluster=trained.allow_single_cluster,
    )
    with using_output_type("numpy"):
        model.labels_ = trained.labels_
    model._raw_data = trained._raw_data.to_output("numpy")
    model._condensed_tree = state["condensed_tree"]
    predict_as_cuml(model, asnumpy(state["inverse_label_map"]), asnumpy(state["core_dists"]))
    return model


def predict_as_cuml(model: Any, selected: NDArray[np.int64], core_distances: NDArray[np.float32]) -> None:
    """Give an hdbscan.HDBSCAN the data with which it predicts what cuML would.

    Parameters
    ----------
    model : hdbscan.HDBSCAN
        With the points, condensed tree and labels of a fit.
    selected : int64 [n_clusters]
        The cluster behind each label, counted from the root of the condensed tree.
    core_distances : float32 [n]
        Of the fit, which cuML predicts with; those that hdbscan predicts with reach one neighbour less far.
    """
    from hdbscan.prediction import PredictionData

    points, tree = model._raw_data, model._condensed_tree
    selection = _Selection(tree, (len(points) + selected).tolist())
    data = PredictionData(points, selection, model.min_samples or model.min_cluster_size)
    data.core_distances = core_distances.astype(np.float64)
    model._prediction_data = data


@dataclass
class _Selection:
    """A condensed tree as far as PredictionData asks for it, with the clusters that were selected in it."""

    _raw_tree: NDArray[Any]
    clusters: list[int]

    def _select_clusters(self) -> list[int]:
        return self.clusters
