"""The topics of many rows, held as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt

Output: TypeAlias = Literal["membership", "reduced", "embeddings"]


class TopicAssignment(NamedTuple):
    """The topic of one row; -1 is the outliers'."""

    topic: int
    probability: float
    label: str


class Prediction(Sequence[TopicAssignment]):
    """The topics of `n` rows, in the order of the input.

    An index gives one row's `TopicAssignment`; a slice, a boolean mask or an array of indices gives
    the `Prediction` of those rows.

    Parameters
    ----------
    topics : int32 [n]
        Topic ids as BERTopic numbers them; -1 for outliers.
    probabilities : float32 [n]
        How strongly a row belongs to its topic; 0 for outliers.
    label_of : mapping of int to str
        The label of every topic in `topics`.
    outputs : mapping of str to array
        What else was asked for, by the name of the attribute.
    model_version : str
        Which version of the model answered all of it; empty where there is no row.
    """

    def __init__(
        self,
        topics: npt.NDArray[np.int32],
        probabilities: npt.NDArray[np.float32],
        label_of: Mapping[int, str],
        outputs: Mapping[Output, npt.NDArray[np.float32]] | None = None,
        model_version: str = "",
    ) -> None:
        self.topics = topics
        self.probabilities = probabilities
        self.model_version = model_version
        self._label_of = label_of
        self._outputs = outputs or {}

    @property
    def labels(self) -> list[str]:
        """The label of each row's topic."""
        return [self._label_of[topic] for topic in self.topics.tolist()]

    @property
    def membership(self) -> npt.NDArray[np.float32]:
        """Float32 [n, n_topics]: how strongly a row belongs to each topic, 0 upwards; outliers have no column."""
        return self._asked_for("membership")

    @property
    def reduced(self) -> npt.NDArray[np.float32]:
        """Float32 [n, n_components]: the rows in UMAP's space."""
        return self._asked_for("reduced")

    @property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """Float32 [n, dim]: the embeddings of the texts."""
        return self._asked_for("embeddings")

    def _asked_for(self, name: Output) -> npt.NDArray[np.float32]:
        try:
            return self._outputs[name]
        except KeyError:
            raise AttributeError(
                f"This prediction has no {name}, which is computed on request: predict(..., outputs=[{name!r}])."
            ) from None

    def __len__(self) -> int:
        return len(self.topics)

    @overload
    def __getitem__(self, rows: int) -> TopicAssignment: ...

    @overload
    def __getitem__(self, rows: slice | Sequence[int] | npt.NDArray[Any]) -> Prediction: ...

    def __getitem__(self, rows: int | slice | Sequence[int] | npt.NDArray[Any]) -> TopicAssignment | Prediction:
        topics = self.topics[rows]
        if np.ndim(topics) == 0:
            topic = int(topics)
            return TopicAssignment(topic, float(self.probabilities[rows]), self._label_of[topic])
        outputs = {name: values[rows] for name, values in self._outputs.items()}
        return Prediction(topics, self.probabilities[rows], self._label_of, outputs, self.model_version)

    def __iter__(self) -> Iterator[TopicAssignment]:
        return map(TopicAssignment, self.topics.tolist(), self.probabilities.tolist(), self.labels)

    def __repr__(self) -> str:
        return f"<Prediction of {len(self)} rows, {len(np.unique(self.topics))} topics>"
