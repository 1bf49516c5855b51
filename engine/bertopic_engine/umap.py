"""UMAP's transform on plain arrays: where new embeddings lie among the training data.

What `umap.UMAP.transform` computes for a batch depends on the batch, and on chance; here every row is placed as if that
method had it alone, where it would place it on average or with a given seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._exceptions import InvalidInput, StorageError
from ._fuzzy import connect
from ._mean_field import RepulsionField, settle
from ._sgd import descend
from .neighbors import Neighbors, load_neighbors
from .repulsion import every_point
from .storage import load_arrays, load_json, save_arrays, save_json
from .threads import for_rows

LAYOUTS = ("mean_field", "sgd")

ARRAYS = "umap.safetensors"
SETTINGS = "umap.json"
# What another thread takes over has to be worth waking it.
_SMALLEST_RANGE = 8


class UmapParameters(NamedTuple):
    """What a fitted UMAP needs beside its arrays to place new rows."""

    n_neighbors: int
    a: float
    """With b, the shape of 1 / (1 + a d^2b), the similarity of two points at distance d."""
    b: float
    n_epochs: int
    """Of the transformation, which takes fewer than training."""
    rng_state: tuple[int, int, int]
    """Seed of the random generator, drawn from the fitted model's `transform_seed`."""
    negative_sample_rate: float = 5.0
    repulsion_strength: float = 1.0
    initial_alpha: float = 1.0
    """Learning rate of the training; transforming starts at a quarter of it."""
    local_connectivity: float = 1.0
    """Of the training; transforming lowers it by one."""
    disconnection_distance: float | None = None
    """Neighbours this far or farther are not connected; None connects all."""
    layout: str = "mean_field"
    """How a row finds its place. "mean_field": where umap-learn's stochastic descent is expected to come to rest.
    "sgd": that descent itself, to the bit."""


class UmapTransform:
    """Places new embeddings among those that a UMAP was fitted on.

    A row's place depends on the row alone, to the bit, whatever its batch and the number of threads. A row
    that is connected to nothing, for which umap-learn has no answer, goes to a place that is farther from all
    training points than these are from each other: HDBSCAN calls it an outlier.

    Parameters
    ----------
    embedding : float32 [n, n_components]
        Where UMAP placed the training data. A NaN marks a point that it could not place (`umap.UMAP` leaves
        those that `disconnection_distance` cuts off); no new row is connected to it.
    neighbors : Neighbors
        Finds training rows near a new one.
    parameters : UmapParameters
    field : RepulsionField, optional
        What stands for the training points under the layout "mean_field"; all of them if left out.
    """

    def __init__(
        self,
        embedding: NDArray[np.float32],
        neighbors: Neighbors,
        parameters: UmapParameters,
        field: RepulsionField | None = None,
    ) -> None:
        if parameters.layout not in LAYOUTS:
            raise ValueError(f"layout is {parameters.layout!r}, expected one of {', '.join(LAYOUTS)}.")
        self.parameters = parameters
        self.neighbors = neighbors
        self._embedding = np.ascontiguousarray(embedding, np.float32)
        self._unplaced = ~np.isfinite(self._embedding).all(axis=1)
        placed = self.placed
        self._field = field
        if field is None and parameters.layout == "mean_field":
            self._field = every_point(placed)
        self._outside = placed.max(axis=0) + 2 * np.ptp(placed, axis=0)

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return self.neighbors.dim

    @property
    def n_components(self) -> int:
        """Dimensions of a place."""
        return int(self._embedding.shape[1])

    @property
    def placed(self) -> NDArray[np.float32]:
        """Where UMAP placed the training data that it could place, float32 [at most n, n_components]."""
        placed: NDArray[np.float32] = self._embedding[~self._unplaced]
        return placed

    def replaced(
        self, *, neighbors: Neighbors | None = None, field: RepulsionField | None = None, **parameters: Any
    ) -> UmapTransform:
        """The same UMAP with another way to find neighbours, another repulsion field or other parameters."""
        return UmapTransform(
            self._embedding,
            neighbors or self.neighbors,
            self.parameters._replace(**parameters),
            field or self._field,
        )

    def check(self, embeddings: NDArray[Any]) -> None:
        """Raise InvalidInput unless `transform` has an answer; see `check_embeddings`."""
        check_embeddings(embeddings, self.dim, self.neighbors.metric)

    def transform(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Place embeddings.

        Parameters
        ----------
        embeddings : float32 [m, dim]

        Returns
        -------
        float32 [m, n_components]

        Raises
        ------
        InvalidInput
            Names the row and what is wrong with it.
        """
        self.check(embeddings)
        return self.layout(*self.neighbors.query(embeddings, self.parameters.n_neighbors))

    def layout(self, indices: NDArray[np.int32], distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Place rows whose neighbours are known.

        Parameters
        ----------
        indices : int32 [m, n_neighbors]
            Training rows, -1 where there is none.
        distances : float32 [m, n_neighbors]
            Ascending along a row.

        Returns
        -------
        float32 [m, n_components]
        """
        p = self.parameters
        indices = self._connected(indices, distances)
        strengths = np.empty(indices.shape, np.float32)
        positions = np.empty((len(indices), self.n_components), np.float32)

        def work(start: int, stop: int) -> None:
            rows = slice(start, stop)
            connect(
                indices[rows],
                distances[rows],
                self._embedding,
                self._outside,
                float(p.n_neighbors),
                max(0.0, p.local_connectivity - 1.0),
                strengths[rows],
                positions[rows],
            )
            if p.layout == "mean_field":
                self._settle(indices[rows], strengths[rows], positions[rows])
            else:
                self._descend(indices[rows], strengths[rows], positions[rows])

        for_rows(work, len(indices), smallest=_SMALLEST_RANGE)
        return positions

    def _settle(
        self, indices: NDArray[np.int32], strengths: NDArray[np.float32], positions: NDArray[np.float32]
    ) -> None:
        p = self.parameters
        settle(
            indices,
            strengths,
            self._embedding,
            self._field,
            p.a,
            p.b,
            float(p.negative_sample_rate),
            float(p.repulsion_strength),
            p.n_epochs,
            positions,
        )

    def _descend(
        self, indices: NDArray[np.int32], strengths: NDArray[np.float32], positions: NDArray[np.float32]
    ) -> None:
        p = self.parameters
        past_epochs = np.maximum(np.arange(p.n_epochs) - 1, 0)
        alphas = p.initial_alpha / 4.0 * (1.0 - past_epochs / p.n_epochs)
        first_coordinates = positions[:, 0].astype(np.float64)
        descend(
            indices,
            strengths,
            self._embedding,
            alphas,
            p.a,
            p.b,
            float(p.negative_sample_rate),
            float(p.repulsion_strength),
            np.array(p.rng_state) + first_coordinates.view(np.int64)[:, np.newaxis],
            positions,
        )

    def _connected(self, indices: NDArray[np.int32], distances: NDArray[np.float32]) -> NDArray[np.int32]:
        """The neighbours with -1 for those that a row cannot be connected to."""
        farthest = self.parameters.disconnection_distance
        if farthest is not None:
            indices = np.where(distances >= farthest, np.int32(-1), indices)
        return np.where(self._unplaced[indices], np.int32(-1), indices)

    def layout_arrays(self) -> dict[str, NDArray[Any]]:
        """What a layout on another device needs, by name.

        `embedding` float32 [n, n_components] and `unplaced` bool [n]; `outside` float32 [n_components], the start of a
        row without neighbours; and the arrays of the RepulsionField.
        """
        arrays = {"embedding": self._embedding, "unplaced": self._unplaced, "outside": self._outside}
        return {**arrays, **(self._field._asdict() if self._field else {})}

    def save(self, folder: Path) -> None:
        """Write `umap.safetensors`, `umap.json` and the neighbours' files into `folder`."""
        save_arrays(folder / ARRAYS, {"embedding": self._embedding, **(self._field._asdict() if self._field else {})})
        save_json(folder / SETTINGS, self.parameters._asdict())
        self.neighbors.save(folder)

    @classmethod
    def load(cls, folder: Path) -> UmapTransform:
        """Read what `save` wrote.

        Raises
        ------
        StorageError
            A file is missing, unreadable or incomplete.
        """
        try:
            settings = load_json(folder / SETTINGS)
            parameters = UmapParameters(**settings | {"rng_state": tuple(settings["rng_state"])})
            arrays = load_arrays(folder / ARRAYS)
            embedding = arrays.pop("embedding")
            return cls(embedding, load_neighbors(folder), parameters, RepulsionField(**arrays) if arrays else None)
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{folder} holds no complete UMAP ({error}). Convert the model again.") from error


def check_embeddings(embeddings: NDArray[Any], dim: int, metric: str) -> None:
    """Raise InvalidInput unless rows can be compared with the training data.

    Parameters
    ----------
    embeddings : float32 [m, dim]
        Finite, and under cosine not zero.
    dim : int
    metric : {"cosine", "euclidean"}

    Raises
    ------
    InvalidInput
        Names the first bad row and what is wrong with it.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != dim:
        raise InvalidInput(
            f"embeddings have the shape {embeddings.shape}, expected (n, {dim}): the model was trained on "
            f"{dim} dimensions. Embed the texts with the embedding model that it was trained with."
        )
    if embeddings.dtype != np.float32:
        raise InvalidInput(
            f"embeddings are {embeddings.dtype}, expected float32. Convert them with astype(np.float32)."
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise InvalidInput(
            f"row {int(finite.argmin())} of the embeddings holds NaN or Inf, expected finite numbers. Remove that row."
        )
    nonzero = embeddings.any(axis=1)
    if metric == "cosine" and not nonzero.all():
        raise InvalidInput(
            f"row {int(nonzero.argmin())} of the embeddings is all zeros, expected a direction: cosine, the "
            "metric of this model, is undefined for it. Remove that row."
        )
