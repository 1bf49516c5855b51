"""How to share texts of different lengths out over calls of the network."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

# The vector width of ONNX Runtime's softmax: sums over a text's tokens then group them in the same way
# whatever the length of the longest text beside it.
LENGTH_STEP = 16
Length = TypeVar("Length", int, NDArray[np.int64])

# What a call costs beyond its arithmetic, and what a padded token costs, in units of one cell of attention
# (a pair of tokens of one text). Measured with all-MiniLM-L6-v2 on a CPU; ratios, so models differ little.
_CALL = 20_000
_TOKEN = 1_000
# Fewer texts than this are not worth a call of their own.
_FEWEST = 4


def padded_length(length: Length) -> Length:
    """The next multiple of LENGTH_STEP."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def split_by_length(
    lengths: NDArray[np.int64], *, padding_is_removed: bool, side_by_side: int = 1, largest: int = 64
) -> list[NDArray[np.intp]]:
    """Groups of texts to encode together, such that padding and calls cost least.

    Parameters
    ----------
    lengths : int64 [n]
        Tokens of each text.
    padding_is_removed : bool
        By the graph, so that padding costs attention only.
    side_by_side : int
        Calls that can run at the same time: groups are halved until there are as many, if they are large enough.
    largest : int
        Most texts of a group.

    Returns
    -------
    list of intp arrays
        Indices into `lengths`, every one once; each group of neighbouring lengths.
    """
    whole_groups = _cheapest_groups(lengths, padding_is_removed)
    groups = [part for group in whole_groups for part in np.array_split(group, -(-len(group) // largest))]
    while groups and len(groups) < side_by_side:
        whole = groups.pop(max(range(len(groups)), key=lambda i: len(groups[i])))
        if len(whole) < 2 * _FEWEST:
            return [*groups, whole]
        # Every other text, so that the halves take equally long.
        groups += [whole[::2], whole[1::2]]
    return groups


def _cheapest_groups(lengths: NDArray[np.int64], padding_is_removed: bool) -> list[NDArray[np.intp]]:
    padded = padded_length(lengths)
    steps, counts = np.unique(padded, return_counts=True)
    ends = np.cumsum(counts)
    # cheapest[i] is the least cost of the texts of the first i lengths, cut[i] where their last group begins.
    cheapest, cut = [0.0], [0]
    for i, step in enumerate(steps.tolist()):
        cell = step * step + (0 if padding_is_removed else _TOKEN * step)
        texts = [int(ends[i] - (ends[j - 1] if j else 0)) for j in range(i + 1)]
        costs = [cheapest[j] + _CALL + texts[j] * cell for j in range(i + 1)]
        best = int(np.argmin(costs))
        cheapest.append(costs[best])
        cut.append(best)
    order = np.argsort(padded, kind="stable")
    groups: list[NDArray[np.intp]] = []
    stop = len(steps)
    while stop:
        start = cut[stop]
        groups.append(order[(ends[start - 1] if start else 0) : ends[stop - 1]])
        stop = start
    return groups[::-1]
