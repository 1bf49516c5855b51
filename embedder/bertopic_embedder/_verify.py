"""Does the graph give what sentence-transformers gives, and the same whatever the batch?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._encoder import Embedder
from ._exceptions import VerificationError

LARGEST_DIFFERENCE = 1e-4

_SENTENCE = "The committee will publish its findings once every region has been heard."
TEXTS = (
    "",
    " ",
    "a",
    "Topic",
    "How do I reset my password?",
    "My parcel arrived two weeks late, and the box was open.",
    "ALL CAPITALS, 1234567890 and http://example.org/a?b=c#d",
    "naïve café — “quotes”, ½ and ﬁ",
    "Der Zug nach Köln fährt heute von einem anderen Gleis.",
    "Где находится ближайшая станция метро?",
    "मुझे कल की बैठक के बारे में बताइए।",
    "明日の会議は何時に始まりますか。",
    "أين يمكنني تجديد جواز سفري؟",
    "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 emoji only, nearly",
    "tab\tnew\nline\r\nand a NUL \0 inside",
    "Pneumonoultramicroscopicsilicovolcanoconiosis",
    *(" ".join([_SENTENCE] * n) for n in (1, 2, 3, 5, 8, 13, 21, 34, 60)),
)


def largest_difference(embedder: Embedder, expected: NDArray[np.float32]) -> float:
    """Compare with the embeddings that sentence-transformers gives for TEXTS.

    Returns
    -------
    float
        The largest absolute difference of any component.

    Raises
    ------
    VerificationError
        It is above LARGEST_DIFFERENCE; names the text.
    """
    found = embedder.encode(list(TEXTS))
    if found.shape != expected.shape:
        raise VerificationError(f"the exported graph gives shape {found.shape}, expected {expected.shape}.")
    difference = np.abs(found - expected).max(axis=1)
    worst = int(np.nan_to_num(difference, nan=np.inf).argmax())
    if not difference[worst] <= LARGEST_DIFFERENCE:
        raise VerificationError(
            f"the exported graph differs from sentence-transformers by {difference[worst]:.2g} for the text "
            f"{TEXTS[worst][:60]!r}; at most {LARGEST_DIFFERENCE:.0e} is accepted. This architecture cannot be served."
        )
    return float(difference[worst])


def is_batch_invariant(embedder: Embedder) -> bool:
    """Whether every text gets the same embedding, to the bit, alone and in batches of many compositions."""
    alone = np.concatenate([embedder.encode([text]) for text in TEXTS])
    return all(_equal(embedder, alone, batch) for batch in _compositions(len(TEXTS)))


def _equal(embedder: Embedder, alone: NDArray[np.float32], batch: Sequence[int]) -> bool:
    together = embedder.encode([TEXTS[i] for i in batch])
    return bool((together == alone[list(batch)]).all())


def _compositions(n: int) -> list[list[int]]:
    generator = random.Random(0)
    everything = list(range(n))
    short = everything[:16]
    return [everything, everything[::-1], short] + [
        generator.sample(pool, size) for size in (2, 3, 5, 8, 13) for pool in (everything, short) for _ in range(2)
    ]


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine of each row of one array with the same row of the other.

    Parameters
    ----------
    a, b : float [n, dim]

    Returns
    -------
    float64 [n]
    """
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: NDArray[np.float64] = (a * b).sum(axis=1) / norms
    return result
