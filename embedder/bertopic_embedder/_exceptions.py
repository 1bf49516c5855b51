"""Every error of the embedder.

EmbedderError
├── UnsupportedEmbedder   a sentence-transformers model with a module or option that cannot be exported
├── VerificationError     the exported graph gives other embeddings than sentence-transformers
├── UnreadableEmbedder    the folder does not hold what `export` writes, or no model could be loaded
├── UnavailableDevice     a GPU was asked for that ONNX Runtime cannot use
├── InvalidText           bytes that are not UTF-8, or too many
└── InvalidTokens         token ids that the network cannot encode
"""


class EmbedderError(Exception):
    """Base of all errors of this package."""


class UnsupportedEmbedder(EmbedderError):
    """A sentence-transformers model with a module or option that cannot be exported."""


class VerificationError(EmbedderError):
    """The exported graph gives other embeddings than sentence-transformers."""


class UnreadableEmbedder(EmbedderError):
    """The folder does not hold what `export` writes, or no model could be loaded."""


class UnavailableDevice(EmbedderError):
    """A GPU was asked for that ONNX Runtime cannot use."""


class InvalidText(EmbedderError, ValueError):
    """Bytes that are not UTF-8, or too many."""


class InvalidTokens(EmbedderError, ValueError):
    """Token ids that the network cannot encode."""
