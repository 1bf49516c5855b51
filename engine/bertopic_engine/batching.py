"""The rows of many requests as one array, such that a bad request fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._exceptions import InvalidInput


class Part(NamedTuple):
    """One request's share of a stacked batch."""

    rows: slice
    """its rows in the batch; none if it was refused"""
    error: ValueError | None
    """why it was refused"""


def stack(
    arrays: Sequence[NDArray[Any]], check: Callable[[NDArray[Any]], object], *, max_rows: int
) -> tuple[NDArray[Any] | None, list[Part]]:
    """Stack the arrays that pass `check`.

    Parameters
    ----------
    arrays : sequence of arrays [n_i, ...]
        One per request.
    check : callable
        Raises a ValueError (InvalidInput is one) for an array that must be refused.
    max_rows : int
        An array of more rows is refused, too.

    Returns
    -------
    batch : array [sum n_i, ...], or None if nothing passed
    parts : list of Part, one per request, in order
    """
    try:
        for array in arrays:
            _check_size(array, max_rows)
        batch = np.concatenate(arrays)
        check(batch)
    except ValueError:
        return _stack_one_by_one(arrays, check, max_rows)
    stops = np.cumsum([len(array) for array in arrays]).tolist()
    return batch, [Part(slice(stop - len(array), stop), None) for array, stop in zip(arrays, stops, strict=True)]


def _stack_one_by_one(
    arrays: Sequence[NDArray[Any]], check: Callable[[NDArray[Any]], object], max_rows: int
) -> tuple[NDArray[Any] | None, list[Part]]:
    parts: list[Part] = []
    accepted: list[NDArray[Any]] = []
    stop = 0
    for array in arrays:
        try:
            _check_size(array, max_rows)
            check(array)
        except ValueError as error:
            parts.append(Part(slice(stop, stop), error))
            continue
        accepted.append(array)
        parts.append(Part(slice(stop, stop + len(array)), None))
        stop += len(array)
    return (np.concatenate(accepted) if accepted else None), parts


def _check_size(array: NDArray[Any], max_rows: int) -> None:
    if len(array) > max_rows:
        raise InvalidInput(f"the request has {len(array):,} rows, expected at most {max_rows:,}. Send it in parts.")
