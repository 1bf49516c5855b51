"""Finds, starts, watches and stops tritonserver, and the command line `bertopic-inference`."""

from ._exceptions import (
    BadCertificate,
    BadRepository,
    KeepsEnding,
    LoadFailed,
    NotServing,
    PortInUse,
    ReloadFailed,
    ServerError,
    StartFailed,
    TritonNotFound,
    Unservable,
)
from ._server import Address, TritonServer
from ._service import Service
from ._tls import Tls

__all__ = [
    "Address",
    "BadCertificate",
    "BadRepository",
    "KeepsEnding",
    "LoadFailed",
    "NotServing",
    "PortInUse",
    "ReloadFailed",
    "ServerError",
    "Service",
    "StartFailed",
    "Tls",
    "TritonNotFound",
    "TritonServer",
    "Unservable",
]
