"""What stands for the training points when they push a new row away: all of them, or as few as do as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._mean_field import RepulsionField
from .neighbors import Found, one_openmp_thread

if TYPE_CHECKING:
    from .umap import UmapTransform

_CENTERS = (256, 512, 1_024, 2_048, 4_096, 8_192)
_KMEANS_ITERATIONS = 10
# That k-means looks at; afterwards every point is counted.
_POINTS_PER_CENTER = 64
_ROWS = 512
_DESCENTS = 8


class Convergence(NamedTuple):
    """How near rows come to the places that they would have under all training points.

    Distances are in units of the reduced space.
    """

    n_centers: int
    displacement: float
    """Below it are nine rows in ten."""
    scatter: float
    """Median distance of a row's place from its mean over several seeds of umap-learn's stochastic descent."""


def every_point(embedding: NDArray[np.float32]) -> RepulsionField:
    """The training points themselves, `embedding` float32 [n, n_components]."""
    n = len(embedding)
    return RepulsionField(np.ascontiguousarray(embedding.T), np.full(n, 1 / n, np.float32), np.zeros(n, np.float32))


def centroids(embedding: NDArray[np.float32], n_centers: int) -> RepulsionField:
    """The k-means centroids of `embedding` float32 [n, n_components]; the same rows give the same bytes."""
    import faiss

    kmeans = faiss.Kmeans(
        embedding.shape[1],
        n_centers,
        niter=_KMEANS_ITERATIONS,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CENTER,
    )
    with one_openmp_thread():
        kmeans.train(embedding)
        nearest = kmeans.index.search(embedding, 1)[1][:, 0]
    counts = np.bincount(nearest, minlength=n_centers)
    nearest, counts = np.unique(nearest, return_inverse=True)[1], counts[counts > 0]

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(nearest, values) / counts

    centers = np.stack([mean(coordinate) for coordinate in embedding.T])
    spreads = mean(((embedding - centers.T[nearest]) ** 2).sum(axis=1))
    return RepulsionField(
        centers.astype(np.float32), (counts / len(embedding)).astype(np.float32), spreads.astype(np.float32)
    )


def summarize(
    transform: UmapTransform, data: NDArray[np.float32], *, accuracy: float = 0.25
) -> tuple[UmapTransform, Convergence]:
    """Let as few centroids stand for the training points as the places of rows allow.

    Their number is doubled until the displacement is below `accuracy` times the scatter: the error is then small
    beside the noise of the descent whose mean the layout is. Measured on training rows, each without itself among
    its neighbours.

    Parameters
    ----------
    transform : UmapTransform
    data : float32 [n, dim]
        The training data.
    accuracy : float

    Returns
    -------
    transform : UmapTransform
        With the layout "mean_field". All points stay where centroids would not be fewer; the most there can be stand
        for them where even these are not accurate enough.
    convergence : Convergence
    """
    embedding = transform.placed
    known = _leave_one_out(transform, data)
    exact = transform.replaced(layout="mean_field", field=every_point(embedding))
    places, scatter = exact.layout(*known), _scatter(transform, *known)
    for n_centers in _CENTERS:
        if n_centers >= len(embedding):
            return exact, Convergence(len(embedding), 0.0, scatter)
        summarized = exact.replaced(field=centroids(embedding, n_centers))
        displaced = np.linalg.norm(summarized.layout(*known) - places, axis=1)
        convergence = Convergence(n_centers, float(np.quantile(displaced, 0.9)), scatter)
        if convergence.displacement <= accuracy * scatter:
            break
    return summarized, convergence


def _leave_one_out(transform: UmapTransform, data: NDArray[np.float32]) -> Found:
    """The neighbours of some training rows, evenly spread, without the rows themselves."""
    rows = np.flatnonzero(data.any(axis=1))
    rows = rows[:: -(-len(rows) // _ROWS)]
    indices, distances = transform.neighbors.query(data[rows], transform.parameters.n_neighbors + 1)
    itself = indices == rows[:, np.newaxis]
    # A row among many equal ones may not find itself; it then does without its last neighbour.
    itself[~itself.any(axis=1), -1] = True
    shape = len(rows), -1
    return indices[~itself].reshape(shape), distances[~itself].reshape(shape)


def _scatter(transform: UmapTransform, indices: NDArray[np.int32], distances: NDArray[np.float32]) -> float:
    states = np.random.default_rng(0).integers(-(2**31), 2**31, (_DESCENTS, 3)).tolist()
    places = np.stack(
        [transform.replaced(layout="sgd", rng_state=tuple(state)).layout(indices, distances) for state in states]
    )
    return float(np.median(np.linalg.norm(places - places.mean(axis=0), axis=2)))
