"""cuML's own UMAP transform behind the surface of `UmapTransform`, for those who want just that.

It takes a GPU with cuML. Unlike in `UmapTransform`, where a row comes to lie depends on the rows beside it and on
chance: cuML prunes weak edges, and counts out the visits to the others, by the strongest edge of the batch.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._exceptions import DeviceUnavailable, StorageError
from .neighbors import ExactNeighbors
from .storage import load_arrays, load_json, save_arrays, save_json
from .umap import ARRAYS, SETTINGS, UmapParameters, check_embeddings

LAYOUT = "cuml"


class CumlTransform:
    """Places new embeddings by `cuml.manifold.UMAP.transform`.

    The seed is the model's, so a batch that comes again is answered alike. cuML takes fewer epochs for more than 10,000
    rows; here all batches take those of small ones.

    Parameters
    ----------
    embedding : float32 [n, n_components]
        Where UMAP placed the training data. A NaN marks a point that it could not place; no new row is connected to it.
    data : float32 [n, dim]
        The training data.
    metric : {"cosine", "euclidean"}
    parameters : UmapParameters
        With the layout "cuml".
    device : int
        The GPU, which the first `transform` takes hold of.
    """

    def __init__(
        self,
        embedding: NDArray[np.float32],
        data: NDArray[np.float32],
        metric: str,
        parameters: UmapParameters,
        device: int = 0,
    ) -> None:
        self.metric = metric
        self.parameters = parameters
        self._embedding = np.ascontiguousarray(embedding, np.float32)
        self._data = np.ascontiguousarray(data, np.float32)
        self._device = device

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return int(self._data.shape[1])

    @property
    def n_components(self) -> int:
        """Dimensions of a place."""
        return int(self._embedding.shape[1])

    @property
    def neighbors(self) -> ExactNeighbors:
        """Finds on the CPU what cuML, which compares with every training row, finds on the GPU."""
        return ExactNeighbors(self._data, self.metric)

    def check(self, embeddings: NDArray[Any]) -> None:
        """Raise InvalidInput unless `transform` has an answer; see `check_embeddings`."""
        check_embeddings(embeddings, self.dim, self.metric)

    def transform(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Place embeddings, each in the company of the others.

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
        DeviceUnavailable
            cuML or the GPU is missing.
        """
        self.check(embeddings)
        model, gpu = self._on_gpu
        with gpu:
            places: NDArray[np.float32] = model.transform(embeddings)
        return places

    @cached_property
    def _on_gpu(self) -> tuple[Any, Any]:
        """A fitted cuml.manifold.UMAP, and the GPU that it is on."""
        cuml_umap, gpu = _cuml(self._device)
        placed = np.isfinite(self._embedding).all(axis=1)
        with gpu:
            model = cuml_umap(**self._options())
            # In this way `UMAP.from_sklearn` takes over a umap.UMAP.
            model._sync_attrs_from_cpu(self._fitted(placed))
        return model, gpu

    def _options(self) -> dict[str, Any]:
        p = self.parameters
        return {
            "n_neighbors": p.n_neighbors,
            "n_components": self.n_components,
            "metric": self.metric,
            # Of a training; transforming takes a third of them.
            "n_epochs": 3 * p.n_epochs,
            "learning_rate": p.initial_alpha,
            "local_connectivity": p.local_connectivity,
            "repulsion_strength": p.repulsion_strength,
            "negative_sample_rate": int(p.negative_sample_rate),
            "random_state": p.rng_state[0] % 2**32,
            "output_type": "numpy",
        }

    def _fitted(self, placed: NDArray[np.bool_]) -> SimpleNamespace:
        """Of the attributes of a fitted umap.UMAP those that cuML asks for; `placed` [n] are the points to keep."""
        from scipy.sparse import coo_matrix

        p = self.parameters
        return SimpleNamespace(
            embedding_=self._embedding[placed],
            # Transforming does not look at it.
            graph_=coo_matrix((placed.sum(), placed.sum()), dtype=np.float32),
            _raw_data=self._data[placed],
            _input_hash=None,
            _sparse_data=False,
            _a=p.a,
            _b=p.b,
            _n_neighbors=p.n_neighbors,
        )

    def save(self, folder: Path) -> None:
        """Write `umap.safetensors` and `umap.json` into `folder`."""
        save_arrays(folder / ARRAYS, {"embedding": self._embedding, "data": self._data})
        save_json(folder / SETTINGS, {"metric": self.metric, **self.parameters._asdict()})

    @classmethod
    def load(cls, folder: Path, device: int = 0) -> CumlTransform:
        """Read what `save` wrote, and take it to the GPU.

        Raises
        ------
        StorageError
            A file is missing, unreadable or incomplete.
        DeviceUnavailable
            cuML or the GPU is missing.
        """
        try:
            settings = load_json(folder / SETTINGS)
            metric = settings.pop("metric")
            parameters = UmapParameters(**settings | {"rng_state": tuple(settings["rng_state"])})
            transform = cls(**load_arrays(folder / ARRAYS), metric=metric, parameters=parameters, device=device)
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"{folder} holds no complete UMAP for cuML ({error}). Convert the model again with --layout cuml."
            ) from error
        # Now, rather than at the first request.
        _ = transform._on_gpu
        return transform


def _cuml(device: int) -> tuple[Any, Any]:
    """The class cuml.manifold.UMAP and a GPU."""
    try:
        import cupy
        from cuml.manifold import UMAP

        cupy.cuda.runtime.getDeviceProperties(device)
    except Exception as error:  # a module or a library is missing, or the driver has no such device
        raise DeviceUnavailable(
            f"cuML cannot be used on GPU {device} ({type(error).__name__}: {error}). Install it with "
            "`pip install 'bertopic-inference[cuml]'` on a machine with an NVIDIA GPU, or convert the model with "
            "--layout mean_field, which any machine serves."
        ) from error
    return UMAP, cupy.cuda.Device(device)
