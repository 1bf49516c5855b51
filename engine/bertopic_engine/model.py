"""A converted model in process: embeddings in, topics out, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._storage import verify_files
from .topics import TopicPredictor
from .umap import UmapTransform


class Topics(NamedTuple):
    """Answers for n rows."""

    topics: NDArray[np.int32]
    """int32 [n], -1 for an outlier"""
    probabilities: NDArray[np.float32]
    """float32 [n]"""


class TopicModel:
    """UMAP and HDBSCAN of one converted model.

    Parameters
    ----------
    umap : UmapTransform
    topics : TopicPredictor
    """

    def __init__(self, umap: UmapTransform, topics: TopicPredictor) -> None:
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
    def load(cls, umap: Path, hdbscan: Path) -> TopicModel:
        """Read what `UmapTransform.save` and `TopicPredictor.save` wrote into two folders."""
        return cls(UmapTransform.load(umap), TopicPredictor.load(hdbscan))


def load(repository: str | Path, name: str = "BERTopic") -> TopicModel:
    """Load a converted model from its repository, after checking its files.

    Parameters
    ----------
    repository : path
        What `bertopic-inference convert --out` wrote.
    name : str
        The name it was converted under.

    Raises
    ------
    StorageError
        A file is missing or differs from what was converted, or another version of the format wrote it.
    """
    root = Path(repository)
    verify_files(root, name)
    return TopicModel.load(root / f"{name}-umap" / "1", root / f"{name}-hdbscan" / "1")
