"""What a user gives, as the tensors that Triton takes: checked before anything is sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._exceptions import InvalidInput

TEXT = "TEXT"
EMBEDDING = "IN"


class Batch(NamedTuple):
    """Rows for one input tensor: `TEXT` as UTF-8 bytes [n, 1], or `IN` as float32 [n, dim]."""

    tensor: str
    rows: npt.NDArray[Any]


def encode(inputs: object) -> Batch:
    """Texts, or a 2-D floating-point array of embeddings, as a tensor.

    Raises
    ------
    InvalidInput
        Neither of the two; the message says what was found where.
    """
    if isinstance(inputs, (str, bytes)) or not hasattr(inputs, "__array__"):
        return encode_texts(inputs)
    # Series, data frames and tensors on the CPU say what they hold once they are arrays.
    array = np.asarray(inputs)
    if array.ndim == 1 and (array.dtype.kind in "OUT" or not array.size):
        return encode_texts(array)
    return Batch(EMBEDDING, _embeddings(array))


def encode_texts(texts: object) -> Batch:
    """Texts as UTF-8 bytes, object [n, 1].

    Raises
    ------
    InvalidInput
        A single text, no sequence, an item that is no str, or one that UTF-8 cannot express.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidInput(f"Got a single {type(texts).__name__}, expected a sequence of str: write [text].")
    if hasattr(texts, "__array__"):
        texts = np.asarray(texts).tolist()
    if not isinstance(texts, Sequence):
        raise InvalidInput(
            f"Got {_kind(texts)}, expected a sequence of str or a float32 array [n, dim]. "
            "Make a list of what only iterates."
        )
    rows = np.empty((len(texts), 1), np.object_)
    for i, text in enumerate(texts):
        rows[i, 0] = _utf8(i, text)
    return Batch(TEXT, rows)


class Chunk(NamedTuple):
    """Rows of a stream as tensors: those of one kind and dimension together, each with its row numbers."""

    batches: list[tuple[list[int], Batch]]
    refused: dict[int, InvalidInput]
    """why a row cannot be sent, by its number"""


def encode_chunk(items: Sequence[object], first: int) -> Chunk:
    """Texts and 1-D embeddings, the rows from `first` on of a stream."""
    texts: list[tuple[int, bytes]] = []
    embeddings: defaultdict[int, list[tuple[int, npt.NDArray[np.float32]]]] = defaultdict(list)
    refused: dict[int, InvalidInput] = {}
    for i, item in enumerate(items, first):
        try:
            if isinstance(item, str):
                texts.append((i, _utf8(i, item)))
            else:
                embedding = _embedding(i, item)
                embeddings[len(embedding)].append((i, embedding))
        except InvalidInput as error:
            refused[i] = error
    batches = []
    if texts:
        rows = np.empty((len(texts), 1), np.object_)
        rows[:, 0] = [text for _, text in texts]
        batches.append(([i for i, _ in texts], Batch(TEXT, rows)))
    for group in embeddings.values():
        batches.append(([i for i, _ in group], Batch(EMBEDDING, np.stack([embedding for _, embedding in group]))))
    return Chunk(batches, refused)


def split(n_rows: int, limit: int) -> list[slice]:
    """Cut `n_rows` into the fewest ranges of at most `limit` rows, of even size, in order."""
    n_parts = -(-n_rows // limit)
    return [slice(n_rows * i // n_parts, n_rows * (i + 1) // n_parts) for i in range(n_parts)]


def _utf8(i: int, text: object) -> bytes:
    if not isinstance(text, str):
        raise _invalid_row(
            i,
            f"Item {i} of the texts is {_kind(text)}, expected str. "
            "Replace missing texts; embeddings go in as one float32 array [n, dim].",
        )
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _invalid_row(
            i,
            f"Item {i} of the texts has {text[error.start]!r} at position {error.start}, half of a surrogate "
            "pair, which UTF-8 cannot express. Read the text with its right encoding, or drop the character.",
        ) from error


def _embedding(i: int, item: object) -> npt.NDArray[np.float32]:
    if not hasattr(item, "__array__"):
        raise _invalid_row(
            i, f"Item {i} of the stream is {_kind(item)}, expected a str or an embedding as a 1-D float32 array."
        )
    array = np.asarray(item)
    if array.ndim != 1 or array.dtype.kind != "f" or not array.size:
        raise _invalid_row(
            i,
            f"Item {i} of the stream is an array of shape {array.shape} and dtype {array.dtype}, expected a str or "
            "an embedding as a 1-D float32 array. Of an array [n, dim], stream the rows.",
        )
    return _as_float32(array)


def _invalid_row(i: int, message: str) -> InvalidInput:
    error = InvalidInput(message)
    error.row = i
    return error


def _embeddings(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    given = f"Got an array of shape {array.shape} and dtype {array.dtype}"
    if array.ndim != 2 or array.shape[1] == 0:
        hint = " For a single embedding write embedding[None]." if array.ndim == 1 else ""
        raise InvalidInput(f"{given}, expected embeddings of shape [n, dim].{hint}")
    if array.dtype.kind != "f":
        raise InvalidInput(
            f"{given}, expected a floating-point dtype. If these are embeddings, pass array.astype(np.float32)."
        )
    return _as_float32(array)


def _as_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    # What float32 cannot hold becomes Inf, which the server refuses by row.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
