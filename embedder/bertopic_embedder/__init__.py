"""Sentence embeddings without torch: a sentence-transformers model as an ONNX graph and a tokenizer."""

from ._encoder import Embedder, OnnxEncoder
from ._exceptions import (
    EmbedderError,
    InvalidText,
    InvalidTokens,
    UnreadableEmbedder,
    UnsupportedEmbedder,
    VerificationError,
)
from ._export import EmbedderReport, export
from ._remote import TritonEncoder, triton_embedder
from ._tokenizer import Call, Plan, TokenBatch, Tokenizer, decode

__all__ = [
    "Call",
    "Embedder",
    "EmbedderError",
    "EmbedderReport",
    "InvalidText",
    "InvalidTokens",
    "OnnxEncoder",
    "Plan",
    "TokenBatch",
    "Tokenizer",
    "TritonEncoder",
    "UnreadableEmbedder",
    "UnsupportedEmbedder",
    "VerificationError",
    "decode",
    "export",
    "triton_embedder",
]
