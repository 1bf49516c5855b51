"""Sentence embeddings without torch: a sentence-transformers model as an ONNX graph and a tokenizer."""

import os

from ._encoder import Embedder, OnnxEncoder
from ._exceptions import (
    EmbedderError,
    InvalidText,
    InvalidTokens,
    UnavailableDevice,
    UnreadableEmbedder,
    UnsupportedEmbedder,
    VerificationError,
)
from ._export import EmbedderReport, export, load_sentence_transformer, require_precision
from ._remote import TritonEncoder, triton_embedder
from ._splits import GPU_BATCH, length_buckets
from ._tokenizer import Call, Plan, TokenBatch, Tokenizer, decode
from ._verify import cosines

# Before anything imports it: ONNX Runtime otherwise reports what it runs to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "GPU_BATCH",
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
    "UnavailableDevice",
    "UnreadableEmbedder",
    "UnsupportedEmbedder",
    "VerificationError",
    "cosines",
    "decode",
    "export",
    "length_buckets",
    "load_sentence_transformer",
    "require_precision",
    "triton_embedder",
]
