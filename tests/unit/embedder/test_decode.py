"""UTF-8 in."""

from __future__ import annotations

import numpy as np
import pytest
from bertopic_embedder import InvalidText, decode


def test_texts_come_out_as_they_went_in() -> None:
    texts = ["", "plain", "日本語 🙂", "a\0b"]
    array = np.array([[text.encode()] for text in texts], dtype=np.object_)
    assert decode(array) == texts


def test_the_row_and_the_byte_are_named() -> None:
    array = np.array([[b"fine"], [b"caf\xe9"]], dtype=np.object_)
    with pytest.raises(InvalidText, match=r"row 1 is not UTF-8: byte 0xe9 at position 3"):
        decode(array)


def test_a_text_that_would_take_long_to_tokenise_is_refused() -> None:
    array = np.array([[b"fine"], [b"x" * 2_000_001]], dtype=np.object_)
    with pytest.raises(InvalidText, match=r"row 1 has 2,000,001 bytes, expected at most 2,000,000"):
        decode(array)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1, 1)], ids=str)
def test_one_text_a_row(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidText, match=r"expected \(n, 1\)"):
        decode(np.full(shape, b"text", dtype=np.object_))
