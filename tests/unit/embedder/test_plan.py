"""A batch of texts as calls of the network, and what is known about them beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bertopic_embedder import Embedder, Tokenizer, length_buckets
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

LIMIT = 20


def _tokenizer(padding_is_removed: bool, **options: Any) -> Tokenizer:
    backend = Backend(WordLevel({"[PAD]": 0, "a": 1, "b": 2}, unk_token="[PAD]"))
    backend.pre_tokenizer = Whitespace()
    backend.enable_truncation(LIMIT)
    return Tokenizer(backend, padding_is_removed=padding_is_removed, **options)


def _texts(*lengths: int) -> list[str]:
    return [" ".join("ab"[i % 2] for i in range(length)) for length in lengths]


@pytest.mark.parametrize(("padding_is_removed", "n_padding"), [(True, 0), (False, 16 - 3 + 16 - 5)])
def test_tokens_and_padding_are_counted(padding_is_removed: bool, n_padding: int) -> None:
    plan = _tokenizer(padding_is_removed).plan(_texts(3, 5))
    assert (plan.n_texts, plan.n_tokens, plan.n_padding, plan.n_truncated) == (2, 8, n_padding, 0)


def test_a_text_is_truncated_only_if_something_is_cut_off() -> None:
    plan = _tokenizer(True).plan(_texts(LIMIT - 1, LIMIT, LIMIT + 1, 5 * LIMIT))
    assert plan.n_truncated == 2
    assert plan.n_tokens == 4 * LIMIT - 1


@pytest.mark.parametrize("side_by_side", [1, 2, 3])
def test_embeddings_come_back_in_the_order_of_the_texts(side_by_side: int) -> None:
    class Lengths:
        """Stands for a network: a text's embedding is its number of tokens."""

        def encode(self, input_ids: Any, attention_mask: Any) -> Any:
            return attention_mask.sum(axis=1, keepdims=True).astype(np.float32)

    lengths = np.random.default_rng(0).integers(1, LIMIT, 300)
    embedder = Embedder(_tokenizer(True), Lengths(), side_by_side=side_by_side)
    plan = embedder.plan(_texts(*lengths))
    assert max(len(call.rows) for call in plan.calls) <= 64
    np.testing.assert_array_equal(embedder.run(plan)[:, 0], lengths)


def test_calls_for_a_gpu_are_as_long_as_its_buckets() -> None:
    plan = _tokenizer(False, buckets=length_buckets(LIMIT)).plan(_texts(*[3] * 300, *[18] * 300))
    assert [call.tokens.input_ids.shape for call in plan.calls] == [(200, 16), (200, 20), (200, 20)]
    assert plan.n_padding == 200 * (16 - 3) + 100 * (20 - 3) + 300 * (20 - 18)
