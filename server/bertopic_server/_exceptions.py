"""Every error of the server package.

ServerError
├── TritonNotFound       no tritonserver on this machine
├── Unservable           this Python cannot run the models: numpy 2, no libpython, no matching stub
├── PortInUse            another process listens where the server should
├── BadRepository        the folder does not hold converted models, or they are damaged
├── BadCertificate       a TLS file is missing or damaged, or certificate and key do not belong together
├── StartFailed          tritonserver ended, or was not ready in time
├── KeepsEnding          tritonserver ended again and again, and was given up
├── LoadFailed           tritonserver could not load a model
├── ReloadFailed         a new model was not put in place; the old one serves on
└── NotServing           no `serve` of this user to talk to
"""


class ServerError(Exception):
    """Base of all errors of this package."""


class TritonNotFound(ServerError):
    """There is no tritonserver on this machine."""


class Unservable(ServerError):
    """This Python cannot run the models: numpy 2, no libpython, or no matching stub."""


class PortInUse(ServerError):
    """Another process listens where the server should."""


class BadRepository(ServerError):
    """The folder does not hold converted models, or they are damaged."""


class BadCertificate(ServerError):
    """A TLS file is missing or damaged, or certificate and key do not belong together."""


class StartFailed(ServerError):
    """Tritonserver ended, or was not ready in time."""


class KeepsEnding(ServerError):
    """Tritonserver ended again and again, and was given up."""


class LoadFailed(ServerError):
    """Tritonserver could not load a model."""


class ReloadFailed(ServerError):
    """A new model was not put in place; the old one serves on."""


class NotServing(ServerError):
    """There is no `serve` of this user to talk to."""
