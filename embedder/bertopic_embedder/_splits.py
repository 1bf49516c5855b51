"""How to share texts of different lengths out over calls of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

# The vector width of ONNX Runtime's softmax: sums over a text's tokens then group them in the same way
# whatever the length of the longest text beside it.
LENGTH_STEP = 16
Length = TypeVar("Length", int, NDArray[np.int64])


class Costs(NamedTuple):
    """What is worth a call of its own, on one kind of device."""

    call: int
    """beyond its arithmetic, in cells of attention (a cell is a pair of tokens of one text)"""
    token: int
    """if it is padding, in cells of attention"""
    fewest: int
    """texts that a call should have"""
    largest: int
    """texts that a call may have"""


# Measured with all-MiniLM-L6-v2; ratios, so models differ little.
CPU = Costs(call=20_000, token=1_000, fewest=4, largest=64)
# Not measured: launching a network's kernels and passing tensors through Triton take about half a millisecond, in
# which a data-centre GPU computes some thousand tokens.
GPU_BATCH = 256
GPU = Costs(call=2_000_000, token=1_000, fewest=GPU_BATCH // 2, largest=GPU_BATCH)


def length_buckets(limit: int) -> list[int]:
    """Lengths to pad to where every other shape costs, from LENGTH_STEP to `limit`, a third to a half apart."""
    powers = [LENGTH_STEP << i for i in range(limit.bit_length())]
    return [*(length for power in powers for length in (power, power * 3 // 2) if length < limit), limit]


def padded_length(length: Length, buckets: Sequence[int] = ()) -> Length:
    """The least of `buckets` that is long enough, or the next multiple of LENGTH_STEP if there are none."""
    if buckets:
        padded: Length = np.asarray(buckets)[np.searchsorted(buckets, length)]
        return padded
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def split_by_length(
    lengths: NDArray[np.int64],
    *,
    padding_is_removed: bool,
    side_by_side: int = 1,
    buckets: Sequence[int] = (),
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
    buckets : sequence of int
        Lengths that texts are padded to for a GPU; for a CPU there are none.

    Returns
    -------
    list of intp arrays
        Indices into `lengths`, every one once; each group of neighbouring lengths.
    """
    costs = GPU if buckets else CPU
    whole_groups = _cheapest_groups(padded_length(lengths, buckets), padding_is_removed, costs)
    groups = [part for group in whole_groups for part in np.array_split(group, -(-len(group) // costs.largest))]
    while groups and len(groups) < side_by_side:
        whole = groups.pop(max(range(len(groups)), key=lambda i: len(groups[i])))
        if len(whole) < 2 * costs.fewest:
            return [*groups, whole]
        # Every other text, so that the halves take equally long.
        groups += [whole[::2], whole[1::2]]
    return groups


def _cheapest_groups(padded: NDArray[np.int64], padding_is_removed: bool, costs: Costs) -> list[NDArray[np.intp]]:
    steps, counts = np.unique(padded, return_counts=True)
    ends = np.cumsum(counts)
    # cheapest[i] is the least cost of the texts of the first i lengths, cut[i] where their last group begins.
    cheapest, cut = [0.0], [0]
    for i, step in enumerate(steps.tolist()):
        cell = step * step + (0 if padding_is_removed else costs.token * step)
        texts = [int(ends[i] - (ends[j - 1] if j else 0)) for j in range(i + 1)]
        totals = [cheapest[j] + costs.call + texts[j] * cell for j in range(i + 1)]
        best = int(np.argmin(totals))
        cheapest.append(totals[best])
        cut.append(best)
    order = np.argsort(padded, kind="stable")
    groups: list[NDArray[np.intp]] = []
    stop = len(steps)
    while stop:
        start = cut[stop]
        groups.append(order[(ends[start - 1] if start else 0) : ends[stop - 1]])
        stop = start
    return groups[::-1]
