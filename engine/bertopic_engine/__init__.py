"""The numerics of topic inference: UMAP's transform and HDBSCAN's prediction on plain arrays."""

from ._exceptions import (
    ChecksumMismatch,
    DeviceError,
    DeviceUnavailable,
    EngineError,
    FormatVersion,
    InvalidInput,
    MissingFile,
    StorageError,
    UnsupportedOnDevice,
)
from .batching import Part, stack
from .hdbscan import HdbscanPredictor
from .model import TopicModel, Topics, load, load_transform
from .topics import TopicPredictor
from .umap import UmapTransform

__all__ = [
    "ChecksumMismatch",
    "DeviceError",
    "DeviceUnavailable",
    "EngineError",
    "FormatVersion",
    "HdbscanPredictor",
    "InvalidInput",
    "MissingFile",
    "Part",
    "StorageError",
    "TopicModel",
    "TopicPredictor",
    "Topics",
    "UmapTransform",
    "UnsupportedOnDevice",
    "load",
    "load_transform",
    "stack",
]
