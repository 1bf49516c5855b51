"""What can be asked of a server, whatever the protocol, and what an answer must hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt

from ._exceptions import ServerError

Tensors: TypeAlias = dict[str, npt.NDArray[Any]]


class Answer(NamedTuple):
    """What a model answered, and which version of it that was."""

    tensors: Tensors
    version: str


@dataclass(frozen=True)
class Infer:
    """One inference: answered with an `Answer`, which has a tensor for each name in `outputs`.

    `rows` says which rows of the user's input these are, if they are rows of one. `version` is the version
    of the model that is to answer, the newest if it is empty.
    """

    model: str
    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: tuple[str, ...]
    rows: Sequence[int] = ()
    version: str = ""

    def collect(self, tensor: Callable[[str], npt.NDArray[Any] | None], version: str) -> Answer:
        """The outputs, each taken with `tensor(name)`, as `version` of the model answered them.

        Raises
        ------
        ServerError
            The answer lacks an output.
        """
        found = {}
        for name in self.outputs:
            values = tensor(name)
            if values is None:
                raise ServerError(f"{self.model!r} answered without {name}, which it was asked for.")
            found[name] = values
        return Answer(found, version)


@dataclass(frozen=True)
class RowLimit:
    """How many rows a request may have: answered with `row_limit`."""

    model: str


def row_limit(max_batch_size: int, max_rows: str) -> int:
    """The rows that a request may have, by a model's config: its parameter `max_rows`, where there is one.

    Triton itself refuses more than `max_batch_size`, which is how much of several requests a model takes at once.
    """
    return int(max_rows) if max_rows else max(1, max_batch_size)


@dataclass(frozen=True)
class Readiness:
    """Whether a model can answer: answered with bool."""

    model: str


Request: TypeAlias = Infer | RowLimit | Readiness
