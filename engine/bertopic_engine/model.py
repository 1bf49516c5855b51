"""A converted model in process: embeddings in, topics out, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .storage import load_json, verify_files
from .topics import TopicPredictor
from .umap import SETTINGS, UmapParameters, UmapTransform


class Topics(NamedTuple):
    """Answers for n rows."""

    topics: NDArray[np.int32]
    """int32 [n], -1 for an outlier"""
    probabilities: NDArray[np.float32]
    """float32 [n]"""


class Transform(Protocol):
    """What places embeddings: `UmapTransform`, or one of its like on a GPU."""

    parameters: UmapParameters

    @property
    def dim(self) -> int: ...

    @property
    def n_components(self) -> int: ...

    def check(self, embeddings: NDArray[Any]) -> None: ...

    def transform(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]: ...


class TopicModel:
    """UMAP and HDBSCAN of one converted model.

    Parameters
    ----------
    umap : Transform
    topics : TopicPredictor
    """

    def __init__(self, umap: Transform, topics: TopicPredictor) -> None:
        self.umap = umap
        self.topics = topics

    def predict(self, embeddings: NDArray[np.float32]) -> Topics:
        """Topics of embeddings.

        Parameters
        ----------
        embeddings : float32 [n, dim]

        Raises
        ------
        InvalidInput
            Names the row and what is wrong with it.
        """
        return Topics(*self.topics.predict(self.umap.transform(embeddings)))

    @classmethod
    def load(cls, umap: Path, hdbscan: Path, *, device: int | None = None) -> TopicModel:
        """Read what `UmapTransform.save` and `TopicPredictor.save` wrote into two folders; see `load_transform`."""
        return cls(load_transform(umap, device), TopicPredictor.load(hdbscan))


def load_transform(folder: Path, device: int | None = None) -> Transform:
    """Read what `UmapTransform.save` wrote, to run on the GPU of this number, or on the CPU.

    Raises
    ------
    StorageError
        A file is missing, unreadable or incomplete.
    DeviceError
        The GPU is missing, or cannot compute what the model needs.
    """
    if load_json(folder / SETTINGS).get("layout") == "cuml":
        from .cuml import CumlTransform

        return CumlTransform.load(folder, device or 0)
    umap = UmapTransform.load(folder)
    if device is None:
        return umap

    from .cuda import CudaUmapTransform

    on_gpu = CudaUmapTransform(umap, device)
    # Kernels are compiled now, rather than while a request waits.
    on_gpu.transform(np.ones((1, umap.dim), np.float32))
    return on_gpu


def load(repository: str | Path, name: str = "BERTopic", *, device: int | None = None) -> TopicModel:
    """Load a converted model from its repository, after checking its files.

    Parameters
    ----------
    repository : path
        What `bertopic-inference convert --out` wrote.
    name : str
        The name it was converted under.
    device : int, optional
        The number of the GPU that runs UMAP; the CPU does if left out, but for the layout "cuml", which takes GPU 0.

    Raises
    ------
    StorageError
        A file is missing or differs from what was converted, or another version of the format wrote it.
    DeviceError
        The GPU is missing, or cannot compute what the model needs.
    """
    root = Path(repository)
    verify_files(root, name)
    return TopicModel.load(root / f"{name}-umap" / "1", root / f"{name}-hdbscan" / "1", device=device)
