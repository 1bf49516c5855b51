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

try:
    from .hdbscan import HdbscanPredictor
except RuntimeError as error:
    if "no locator available" not in str(error):
        raise
    raise StorageError(
        "there is nowhere to keep compiled code: neither this package's folder nor the home directory can be written. "
        "Set NUMBA_CACHE_DIR to a folder that can, which nobody else may write to."
    ) from error
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
