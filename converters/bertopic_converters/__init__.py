"""A trained BERTopic model in, a Triton model repository out; and how close the two are."""

from ._convert import convert
from ._exceptions import (
    ConversionError,
    DimensionMismatch,
    OutputError,
    UnreadableModel,
    UnsupportedModel,
    UntrustedPickle,
)
from ._fidelity import Fidelity, measure_on_surrogates, verify

__all__ = [
    "ConversionError",
    "DimensionMismatch",
    "Fidelity",
    "OutputError",
    "UnreadableModel",
    "UnsupportedModel",
    "UntrustedPickle",
    "convert",
    "measure_on_surrogates",
    "verify",
]
