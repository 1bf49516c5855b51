"""A sentence-transformers model as one torch module from token ids to the sentence embedding.

Of three kinds. *Padded* runs the transformer as it is. *Masked* does the same with attention in the plain form
that TensorRT fuses into one kernel. *Packed* removes the padding first: everything that works token by token,
which is nearly all of the arithmetic, sees the real tokens of all texts one after another, and only inside
attention does each text get its own padded row again (the idea of ByteTransformer, Zhai et al., 2023). Texts of
different lengths then share a batch at almost no cost; but shapes depend on what is in the batch, which TensorRT
cannot build for.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ._exceptions import UnsupportedEmbedder

POOLING_MODES = ("mean", "cls", "max")
PACKED = "bertopic-packed"
MASKED = "bertopic-masked"
# Added to the scores of padding: far below any score, and well within half precision.
_PADDING_SCORE = -30_000.0


class _Layout:
    """Where the real tokens of a padded batch are, while a packed module runs."""

    def __init__(self, attention_mask: Tensor) -> None:
        self.length = attention_mask.shape[1]
        # An empty text without special tokens keeps its first slot, since nothing would be left of it.
        kept = torch.cat([torch.ones_like(attention_mask[:, :1]), attention_mask[:, 1:]], dim=1)
        self.row, self.column = kept.nonzero().unbind(1)
        counts = kept.sum(1)
        first = torch.cumsum(counts, 0) - counts
        # Padding looks at its text's last token, and is masked.
        self.slot = first[:, None] + torch.minimum(torch.arange(self.length)[None], counts[:, None] - 1)
        self.bias = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        self._indices: dict[int, tuple[Tensor, Tensor]] = {}

    def indices(self, n_heads: int) -> tuple[Tensor, Tensor]:
        """From packed [tokens * heads] to padded [batch, heads, length], and back to [tokens, heads]."""
        if n_heads not in self._indices:
            head = torch.arange(n_heads)
            padded = self.slot[:, None, :] * n_heads + head[None, :, None]
            packed = self.row[:, None] * (n_heads * self.length) + self.column[:, None] + head[None, :] * self.length
            self._indices[n_heads] = padded, packed
        return self._indices[n_heads]


_layout: _Layout | None = None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention within each text, for transformers' attention interface.

    Parameters
    ----------
    query, key, value : float32 [1, heads, tokens, head_dim]
    """
    assert _layout is not None, "packed attention runs inside a PackedModel only"
    n_heads, head_dim = int(query.shape[1]), int(query.shape[3])
    padded, packed = _layout.indices(n_heads)
    query, key, value = (x.transpose(1, 2).reshape(-1, head_dim)[padded] for x in (query, key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * (head_dim**-0.5 if scaling is None else scaling)
    mixed = torch.matmul(torch.softmax(scores + _layout.bias, dim=-1), value)
    return mixed.reshape(-1, head_dim)[packed][None], None


_bias: Tensor | None = None


def masked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention that passes over padding, for transformers' attention interface.

    Parameters
    ----------
    query, key, value : float32 [n, heads, length, head_dim]
    """
    assert _bias is not None, "masked attention runs inside a MaskedModel only"
    scale = int(query.shape[3]) ** -0.5 if scaling is None else scaling
    # TensorRT wants the query scaled, rather than the scores.
    scores = torch.matmul(query * scale, key.transpose(2, 3))
    mixed = torch.matmul(torch.softmax(scores + _bias, dim=-1), value)
    return mixed.transpose(1, 2), None


class PackedModel(nn.Module):
    """From INPUT_IDS and ATTENTION_MASK [n, length] to EMBEDDING [n, dim], without padding."""

    def __init__(self, transformer: nn.Module, pooling: str, head: nn.ModuleList) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling
        self.head = head
        self._arguments = inspect.signature(transformer.forward).parameters
        embeddings: Any = getattr(transformer, "embeddings", None)
        # RoBERTa and its kin count from behind the padding id, and not the padding ids that a text spells out.
        counts_from_padding = hasattr(embeddings, "create_position_ids_from_input_ids")
        self._padding_id = embeddings.padding_idx if counts_from_padding else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        global _layout
        _layout = layout = _Layout(attention_mask)
        tokens = input_ids.reshape(-1)[layout.row * layout.length + layout.column][None]
        arguments = {"input_ids": tokens, "attention_mask": None, "position_ids": self._positions(input_ids, layout)}
        if "token_type_ids" in self._arguments:
            arguments["token_type_ids"] = torch.zeros_like(tokens)
        packed = self.transformer(**arguments).last_hidden_state[0]
        _layout = None
        return _finish(packed[layout.slot], attention_mask, self.pooling, self.head)

    def _positions(self, input_ids: Tensor, layout: _Layout) -> Tensor:
        if self._padding_id is None:
            return layout.column[None]
        counted = (input_ids != self._padding_id).long()
        positions = torch.cumsum(counted, dim=1) * counted + self._padding_id
        return positions.reshape(-1)[layout.row * layout.length + layout.column][None]


class PaddedModel(nn.Module):
    """From INPUT_IDS and ATTENTION_MASK [n, length] to EMBEDDING [n, dim], for any transformer."""

    def __init__(self, transformer: nn.Module, pooling: str, head: nn.ModuleList) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self._hidden(input_ids, attention_mask)
        return _finish(hidden, attention_mask, self.pooling, self.head)

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "token_type_ids" in inspect.signature(self.transformer.forward).parameters:
            arguments["token_type_ids"] = torch.zeros_like(input_ids)
        hidden: Tensor = self.transformer(**arguments).last_hidden_state
        return hidden


class MaskedModel(PaddedModel):
    """The same, for a transformer whose attention is `masked_attention`."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        global _bias
        _bias = (1.0 - attention_mask[:, None, None, :].float()) * _PADDING_SCORE
        hidden = self._hidden(input_ids, None)
        _bias = None
        return _finish(hidden, attention_mask, self.pooling, self.head)


def _finish(hidden: Tensor, attention_mask: Tensor, pooling: str, head: nn.ModuleList) -> Tensor:
    embedding = _pool(hidden, attention_mask, pooling)
    for module in head:
        embedding = module({"sentence_embedding": embedding})["sentence_embedding"]
    return embedding


def _pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "max":
        return hidden.masked_fill(attention_mask[:, :, None] == 0, -1e9).max(dim=1).values
    # As a matrix product, because a sum over the tokens rounds differently for a batch of one.
    mask = attention_mask[:, None, :].float()
    return torch.matmul(mask, hidden).squeeze(1) / mask.sum(2).clamp(min=1e-9)


def take_apart(model: Any) -> tuple[nn.Module, str, nn.ModuleList]:
    """Transformer, pooling mode and what follows, of a SentenceTransformer.

    Raises
    ------
    UnsupportedEmbedder
        Names the module or option that cannot be exported.
    """
    modules = list(model)
    names = [type(module).__name__ for module in modules]
    if names[:2] != ["Transformer", "Pooling"] or not set(names[2:]) <= {"Dense", "Normalize"}:
        raise UnsupportedEmbedder(
            f"the embedder consists of {' + '.join(names)}; supported is Transformer + Pooling, "
            "followed by Dense and Normalize in any number."
        )
    transformer, pooling = modules[:2]
    if pooling.pooling_mode not in POOLING_MODES:
        raise UnsupportedEmbedder(
            f"the embedder pools by {pooling.pooling_mode!r}; supported are {', '.join(POOLING_MODES)}."
        )
    if not pooling.include_prompt and default_prompt(model):
        raise UnsupportedEmbedder(
            "the embedder leaves its prompt out of pooling (include_prompt=False), which is not supported."
        )
    for dense in modules[2:]:
        if getattr(dense, "module_input_name", "sentence_embedding") != "sentence_embedding":
            raise UnsupportedEmbedder(
                f"the embedder has a {type(dense).__name__} that works on {dense.module_input_name!r}; "
                "supported are those that work on the pooled 'sentence_embedding'."
            )
    if model.truncate_dim is not None:
        raise UnsupportedEmbedder(
            f"the embedder cuts embeddings to {model.truncate_dim} dimensions (truncate_dim), which is not supported."
        )
    return transformer.auto_model, pooling.pooling_mode, nn.ModuleList(modules[2:])


def default_prompt(model: Any) -> str:
    """What `model.encode` puts before every text."""
    return (model.prompts or {}).get(model.default_prompt_name) or "" if model.default_prompt_name else ""
