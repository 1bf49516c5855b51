"""Text to token ids, as sentence-transformers tokenises, without transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._exceptions import InvalidText, UnreadableEmbedder
from ._splits import padded_length, split_by_length

SETTINGS = "embedder.json"
TOKENIZER = "tokenizer.json"
# Tokenising a text takes time for all of it, although the model reads only its beginning.
LONGEST_TEXT = 2_000_000


class TokenBatch(NamedTuple):
    """Texts as token ids, padded on the right."""

    input_ids: NDArray[np.int64]
    """int64 [n, length], length as `padded_length` gives it"""
    attention_mask: NDArray[np.int64]
    """int64 [n, length], 1 where there is a token"""

    def take(self, rows: NDArray[np.intp], buckets: Sequence[int] = ()) -> TokenBatch:
        """Some of the rows, no longer than they need to be."""
        length = max(1, int(self.lengths()[rows].max()))
        padded = padded_length(length, buckets)
        return TokenBatch(self.input_ids[rows, :padded], self.attention_mask[rows, :padded])

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, int64 [n]."""
        lengths: NDArray[np.int64] = self.attention_mask.sum(axis=1)
        return lengths


class Call(NamedTuple):
    """Some texts of a batch, to be encoded in one call of the network."""

    rows: NDArray[np.intp]
    """their places in the batch"""
    tokens: TokenBatch


class Plan(NamedTuple):
    """A batch of texts, shared out over calls of the network."""

    calls: list[Call]
    n_tokens: int
    """of all texts"""
    n_padding: int
    """computed only since the texts of a call are of one length; none if the graph removes padding"""
    n_truncated: int
    """texts longer than the model reads"""

    @property
    def n_texts(self) -> int:
        return sum(len(call.rows) for call in self.calls)

    def in_order(self, embeddings: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The answers to the calls in the order of the texts, float32 [n, dim]."""
        joined = np.concatenate(embeddings)
        ordered = np.empty_like(joined)
        ordered[np.concatenate([call.rows for call in self.calls])] = joined
        return ordered


class Tokenizer:
    """Turns texts into token ids.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Truncates at the model's limit, does not pad.
    pad_id : int
    prompt : str
        Put before every text.
    padding_is_removed : bool
        By the graph that the ids are for.
    buckets : sequence of int
        Lengths to pad to for a GPU, up to the model's limit; for a CPU there are none.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        pad_id: int = 0,
        prompt: str = "",
        padding_is_removed: bool = False,
        buckets: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._limit = tokenizer.truncation["max_length"] if tokenizer.truncation else None
        self._pad_id = pad_id
        self._prompt = prompt
        self._padding_is_removed = padding_is_removed
        self._buckets = buckets

    def tokenize(self, texts: list[str]) -> TokenBatch:
        """Token ids of texts; a text beyond the model's limit is cut there."""
        return self._padded([encoding.ids for encoding in self._encodings(texts)])

    def _encodings(self, texts: list[str]) -> list[Any]:
        prompted = [self._prompt + text for text in texts] if self._prompt else texts
        encodings: list[Any] = self._tokenizer.encode_batch_fast(prompted)
        return encodings

    def _padded(self, rows: list[list[int]]) -> TokenBatch:
        longest = max([1, *map(len, rows)])
        shape = (len(rows), padded_length(longest, self._buckets))
        input_ids = np.full(shape, self._pad_id, np.int64)
        attention_mask = np.zeros(shape, np.int64)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = 1
        return TokenBatch(input_ids, attention_mask)

    def plan(self, texts: list[str], *, side_by_side: int = 1) -> Plan:
        """Token ids of texts, shared out over calls of the network such that together they take least time.

        Parameters
        ----------
        texts : list of str
        side_by_side : int
            Calls that can run at the same time.
        """
        encodings = self._encodings(texts)
        tokens = self._padded([encoding.ids for encoding in encodings])
        lengths = tokens.lengths()
        groups = split_by_length(
            lengths,
            padding_is_removed=self._padding_is_removed,
            side_by_side=side_by_side,
            buckets=self._buckets,
        )
        calls = [Call(rows, tokens.take(rows, self._buckets)) for rows in groups]
        n_tokens = int(lengths.sum())
        n_computed = n_tokens if self._padding_is_removed else sum(call.tokens.input_ids.size for call in calls)
        return Plan(calls, n_tokens, n_computed - n_tokens, sum(map(self._is_truncated, encodings)))

    def _is_truncated(self, encoding: Any) -> bool:
        # What was cut off is costly to ask for, so only where something can have been.
        return self._limit is not None and len(encoding.ids) >= self._limit and bool(encoding.overflowing)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read what `export` wrote.

        Raises
        ------
        UnreadableEmbedder
            Names the file that is missing or damaged.
        """
        from tokenizers import Tokenizer as Backend

        settings = read_settings(folder)
        path = folder / TOKENIZER
        try:
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exception
            raise UnreadableEmbedder(
                f"{path} is not a readable tokenizer ({error}). Convert the model again."
            ) from error
        return cls(
            backend,
            pad_id=settings["pad_id"],
            prompt=settings["prompt"],
            padding_is_removed=settings["padding"] == "removed",
            buckets=settings.get("buckets", ()),
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """What `export` wrote of the embedder beside its graph; raises UnreadableEmbedder."""
    path = folder / SETTINGS
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableEmbedder(f"{path} is missing or damaged ({error}). Convert the model again.") from error
    return settings


def decode(texts: NDArray[np.object_]) -> list[str]:
    """UTF-8 bytes as text.

    Parameters
    ----------
    texts : object [n, 1], of bytes

    Raises
    ------
    InvalidText
        Another shape; or names the row that is not UTF-8, or longer than LONGEST_TEXT.
    """
    if texts.ndim != 2 or texts.shape[1] != 1:
        raise InvalidText(f"the texts have the shape {texts.shape}, expected (n, 1): one text a row.")
    return [_decode(row, data) for row, data in enumerate(texts.reshape(-1))]


def _decode(row: int, data: bytes) -> str:
    if len(data) > LONGEST_TEXT:
        raise InvalidText(
            f"row {row} has {len(data):,} bytes, expected at most {LONGEST_TEXT:,}. The embedding model reads "
            "only the beginning of a text: cut it."
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidText(
            f"row {row} is not UTF-8: byte {data[error.start]:#04x} at position {error.start}. Encode texts as UTF-8."
        ) from error
