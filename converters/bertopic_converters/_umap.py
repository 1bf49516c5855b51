"""From a fitted UMAP of umap-learn or cuML to what the engine transforms with."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._cuml import CumlUmap
from ._exceptions import UnsupportedModel

if TYPE_CHECKING:
    from bertopic_engine.cuml import CumlTransform
    from bertopic_engine.neighbors import Neighbors, Progress
    from bertopic_engine.umap import UmapParameters, UmapTransform

# Metrics that umap-learn computes alike.
_METRICS = {"cosine": "cosine", "euclidean": "euclidean", "l2": "euclidean"}

_RECALL = 0.97
_DEFAULT_SEED = 42


def read_umap(
    umap_model: Any, *, layout: str = "mean_field", exact_neighbors: bool = False, progress: Progress | None = None
) -> UmapTransform:
    """Take from a fitted UMAP what transforming needs.

    Parameters
    ----------
    umap_model : umap.UMAP or CumlUmap
    layout : {"mean_field", "sgd"}
        How new rows are placed; see `UmapParameters`.
    exact_neighbors : bool
        Compare with every training row, however many there are.
    progress : callable, optional
        Called with the rows indexed so far and their total, for models large enough to need an index.

    Raises
    ------
    UnsupportedModel
        Not a fitted UMAP, or one with an option that cannot be served; names it and what is supported.
    """
    from bertopic_engine.umap import UmapTransform

    parameters = _parameters(umap_model, layout)
    neighbors = _find_neighbors(
        umap_model._raw_data, _METRICS[umap_model.metric], parameters.n_neighbors, exact_neighbors, progress
    )
    return UmapTransform(umap_model.embedding_, neighbors, parameters)


def read_umap_for_cuml(umap_model: Any) -> CumlTransform:
    """Take from a fitted UMAP what transforming with cuML needs; neither cuML nor a GPU is needed for that.

    Parameters
    ----------
    umap_model : umap.UMAP or CumlUmap

    Raises
    ------
    UnsupportedModel
        As `read_umap`.
    """
    from bertopic_engine.cuml import LAYOUT, CumlTransform

    parameters = _parameters(umap_model, LAYOUT)
    return CumlTransform(umap_model.embedding_, umap_model._raw_data, _METRICS[umap_model.metric], parameters)


def _parameters(umap_model: Any, layout: str) -> UmapParameters:
    from bertopic_engine.umap import UmapParameters

    require_supported(umap_model)
    disconnection_distance = float(umap_model._disconnection_distance)
    return UmapParameters(
        n_neighbors=int(umap_model._n_neighbors),
        a=float(umap_model._a),
        b=float(umap_model._b),
        n_epochs=100 if umap_model.n_epochs is None else umap_model.n_epochs // 3,
        rng_state=_rng_state(umap_model.transform_seed),
        negative_sample_rate=float(umap_model.negative_sample_rate),
        repulsion_strength=float(umap_model.repulsion_strength),
        initial_alpha=float(umap_model._initial_alpha),
        local_connectivity=float(umap_model.local_connectivity),
        disconnection_distance=disconnection_distance if np.isfinite(disconnection_distance) else None,
        layout=layout,
    )


def require_supported(umap_model: Any) -> None:
    """Raise UnsupportedModel unless `read_umap` can read it."""
    _check_class(umap_model)
    _check_options(umap_model)


def _check_class(model: Any) -> None:
    from umap import UMAP

    if isinstance(model, CumlUmap):
        return
    # A subclass that transforms in its own way (ParametricUMAP does) is another method under UMAP's name.
    if not isinstance(model, UMAP) or type(model).transform is not UMAP.transform:
        kind = type(model)
        raise UnsupportedModel(
            f"The dimensionality reduction is a {kind.__module__}.{kind.__qualname__}; only umap.UMAP and "
            "cuml.manifold.UMAP are supported. Train BERTopic with umap_model=umap.UMAP(...)."
        )
    if not hasattr(model, "_raw_data"):
        raise UnsupportedModel("The UMAP has not been fitted; a fitted one is needed. Fit BERTopic first.")


def _check_options(model: Any) -> None:
    if model.densmap:
        raise UnsupportedModel(
            "The UMAP was trained with densmap=True, which has no transform for new data; supported is "
            "densmap=False. Train without densMAP."
        )
    if model.metric not in _METRICS:
        raise UnsupportedModel(
            f"The UMAP's metric is {model.metric!r}; supported are {', '.join(_METRICS)}. Train with one of them."
        )
    if model.output_metric != "euclidean":
        raise UnsupportedModel(
            f"The UMAP's output_metric is {model.output_metric!r}; supported is 'euclidean'. Train with it."
        )
    if model._sparse_data:
        raise UnsupportedModel(
            "The UMAP was trained on a sparse matrix; supported are dense embeddings. Train with an embedding "
            "model, or on matrix.toarray()."
        )
    if model.transform_mode != "embedding":
        raise UnsupportedModel(
            f"The UMAP's transform_mode is {model.transform_mode!r}; supported is 'embedding'. Train with it."
        )
    if len(model._raw_data) < 2:
        raise UnsupportedModel(
            "The UMAP was trained on a single sample, to which nothing can be compared. Train on more documents."
        )
    if model.n_epochs is not None and (not isinstance(model.n_epochs, int) or model.n_epochs < 3):
        raise UnsupportedModel(
            f"The UMAP's n_epochs is {model.n_epochs!r}; supported are None and whole numbers from 3, since "
            "transforming takes a third of them. Train with one of those."
        )
    if model.negative_sample_rate <= 0:
        raise UnsupportedModel(
            "The UMAP's negative_sample_rate is 0; supported are positive ones. Train with the default, 5."
        )


def _rng_state(transform_seed: Any) -> tuple[int, int, int]:
    """The generator's state as `UMAP.transform` draws it; None, which draws anew each time, means the default."""
    from sklearn.utils import check_random_state
    from umap.umap_ import INT32_MAX, INT32_MIN

    # A copy, since drawing would change a generator that belongs to the model.
    random_state = deepcopy(check_random_state(_DEFAULT_SEED if transform_seed is None else transform_seed))
    first, second, third = random_state.randint(INT32_MIN, INT32_MAX, 3).tolist()
    return first, second, third


def _find_neighbors(
    data: NDArray[np.float32], metric: str, n_neighbors: int, exact: bool, progress: Progress | None
) -> Neighbors:
    from bertopic_engine.neighbors import EXACT_BELOW, ExactNeighbors, build_index

    if exact or len(data) < EXACT_BELOW:
        return ExactNeighbors(data, metric)
    index = build_index(data, metric, k=n_neighbors, recall=_RECALL, progress=progress)
    # Data on which an index fails (whole clusters of duplicates, say) are still served right, if slowly.
    return index if index.recall >= _RECALL else ExactNeighbors(data, metric)
