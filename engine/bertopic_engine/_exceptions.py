"""Every error the engine raises.

EngineError
├── InvalidInput            an array that has no answer: wrong shape or dtype, NaN, Inf, a zero vector
├── DeviceError             a GPU cannot serve the model
│   ├── DeviceUnavailable   it, or what drives it, is missing
│   └── UnsupportedOnDevice the model has something that only the CPU computes
└── StorageError            what is on disk cannot be served
    ├── MissingFile         a file that the manifest names is not there
    ├── ChecksumMismatch    a file differs from what was converted
    └── FormatVersion       written by a version of this project that this one cannot read
"""


class EngineError(Exception):
    """Base of all errors of this package."""


class InvalidInput(EngineError, ValueError):
    """An array that has no answer: wrong shape or dtype, NaN, Inf, or a zero vector under cosine."""


class DeviceError(EngineError):
    """A GPU cannot serve the model."""


class DeviceUnavailable(DeviceError, RuntimeError):
    """The GPU, or what drives it, is missing."""


class UnsupportedOnDevice(DeviceError, ValueError):
    """The model has something that only the CPU computes."""


class StorageError(EngineError):
    """What is on disk cannot be served."""


class MissingFile(StorageError, FileNotFoundError):
    """A file that the model needs is not there."""


class ChecksumMismatch(StorageError):
    """A file differs from what was converted."""


class FormatVersion(StorageError):
    """Written by a version of this project that this one cannot read."""
