"""Sharing texts out over calls."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bertopic_embedder import GPU_BATCH, length_buckets
from bertopic_embedder._splits import padded_length, split_by_length
from hypothesis import given
from hypothesis import strategies as st

BUCKETS = length_buckets(512)


@given(st.lists(st.integers(0, 512), max_size=64), st.booleans(), st.sampled_from([(), BUCKETS]))
def test_every_text_is_in_one_group_of_neighbouring_lengths(
    lengths: list[int], padding_is_removed: bool, buckets: list[int]
) -> None:
    array = np.array(lengths, dtype=np.int64)
    groups = split_by_length(array, padding_is_removed=padding_is_removed, buckets=buckets)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for shorter, longer in itertools.pairwise(groups):
        assert array[shorter].max() < array[longer].min()


def test_short_texts_stay_together() -> None:
    assert len(split_by_length(np.arange(2, 30), padding_is_removed=True)) == 1


def test_a_long_text_does_not_stretch_short_ones() -> None:
    groups = split_by_length(np.array([14] * 31 + [256]), padding_is_removed=True)
    assert [len(group) for group in groups] == [31, 1]


def test_masked_padding_is_split_more_finely() -> None:
    lengths = np.arange(2, 60)
    masked = split_by_length(lengths, padding_is_removed=False)
    assert len(masked) > len(split_by_length(lengths, padding_is_removed=True))


def test_calls_side_by_side_take_equally_long() -> None:
    lengths = np.arange(2, 30)
    first, second = split_by_length(lengths, padding_is_removed=True, side_by_side=2)
    assert sorted([*first, *second]) == list(range(28))
    assert abs(lengths[first].sum() - lengths[second].sum()) <= len(first)


def test_a_few_texts_are_not_torn_apart() -> None:
    assert len(split_by_length(np.array([5, 6, 7]), padding_is_removed=True, side_by_side=2)) == 1
    assert split_by_length(np.array([], dtype=np.int64), padding_is_removed=True, side_by_side=2) == []


@pytest.mark.parametrize("limit", [7, 16, 24, 100, 256, 510, 512, 8192])
def test_buckets_end_at_the_limit_and_waste_little(limit: int) -> None:
    buckets = length_buckets(limit)
    lengths = np.arange(1, limit + 1)
    padded = padded_length(lengths, buckets)
    assert set(padded.tolist()) == set(buckets)
    assert buckets[-1] == limit
    assert (padded >= lengths).all()
    assert (padded <= np.maximum(1.5 * lengths, 16)).all()
    assert len(buckets) <= 2 * np.log2(limit)


def test_a_gpu_gets_fewer_and_larger_calls() -> None:
    lengths = np.array([14] * 200 + [40] * 100)
    assert len(split_by_length(lengths, padding_is_removed=False)) > 3
    assert [len(group) for group in split_by_length(lengths, padding_is_removed=False, buckets=BUCKETS)] == [200, 100]
    apart = split_by_length(np.array([14] * 255 + [256]), padding_is_removed=False, buckets=BUCKETS)
    assert [len(group) for group in apart] == [255, 1]


def test_a_call_never_has_more_texts_than_the_gpu_takes() -> None:
    groups = split_by_length(np.full(1_000, 14), padding_is_removed=False, buckets=BUCKETS)
    assert len(groups) == 4
    assert max(map(len, groups)) <= GPU_BATCH
