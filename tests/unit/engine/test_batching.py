"""Requests share a batch, and a bad one leaves it alone."""

from __future__ import annotations

import numpy as np
import pytest
from bertopic_engine import InvalidInput, stack


def _no_negatives(array: np.ndarray) -> None:
    if (array < 0).any():
        raise InvalidInput(f"row {int((array < 0).argmax())} is negative")


def _rows(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_rows_are_stacked_in_order() -> None:
    batch, parts = stack([_rows(1), _rows(2, 3), _rows(4)], _no_negatives, max_rows=2)
    np.testing.assert_array_equal(batch, _rows(1, 2, 3, 4))
    assert [part.rows for part in parts] == [slice(0, 1), slice(1, 3), slice(3, 4)]
    assert not any(part.error for part in parts)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(_rows(5, -1), "row 1 is negative", id="refused by the check, its own rows counted"),
        pytest.param(_rows(1, 2, 3), "the request has 3 rows, expected at most 2", id="too many rows"),
    ],
)
def test_a_bad_request_is_left_out(bad: np.ndarray, message: str) -> None:
    batch, parts = stack([_rows(1), bad, _rows(2)], _no_negatives, max_rows=2)
    np.testing.assert_array_equal(batch, _rows(1, 2))
    assert [part.rows for part in parts] == [slice(0, 1), slice(1, 1), slice(1, 2)]
    assert [bool(part.error) for part in parts] == [False, True, False]
    assert message in str(parts[1].error)


def test_nothing_is_left_of_bad_requests_alone() -> None:
    batch, parts = stack([_rows(-1)], _no_negatives, max_rows=2)
    assert batch is None
    assert parts[0].error is not None
