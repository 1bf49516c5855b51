"""What a client shows of itself, and whom it trusts: certificates and headers."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

from ._address import Address
from ._exceptions import InvalidInput


@dataclass(frozen=True)
class Tls:
    """Files in PEM for `grpcs://` and `https://`.

    Parameters
    ----------
    ca : path, optional
        Certificates of the authorities to trust instead of the system's.
    certificate, key : path, optional
        What the client identifies itself with, where the server asks for it (mutual TLS).
    """

    ca: str | PathLike[str] | None = None
    certificate: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None

    def context(self) -> ssl.SSLContext:
        """What these files come to.

        Raises
        ------
        InvalidInput
            A file that is missing or is not what it is given as.
        """
        for name in ("ca", "certificate", "key"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise InvalidInput(f"tls.{name}={fspath(path)!r}: no such file; expected one in PEM.")
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput(f"{self!r}: certificate and key go together, give both or neither.")
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            raise InvalidInput(f"{self!r} cannot be used ({error}): expected readable PEM files that match.") from error
        return context


class Credentials(NamedTuple):
    """What goes with every connection (`tls`, `context`) and every request (`headers`, names in lower case)."""

    tls: Tls
    context: ssl.SSLContext | None
    headers: dict[str, str]

    @classmethod
    def of(cls, tls: Tls | None, headers: Mapping[str, str] | None, addresses: Sequence[Address]) -> Credentials:
        """Checked against the addresses that they are for; raises `InvalidInput`."""
        plain = [address for address in addresses if not address.is_secure]
        if tls and plain:
            scheme = "grpcs" if plain[0].is_grpc else "https"
            raise InvalidInput(f"tls=... goes with grpcs:// and https://: write '{plain[0]._replace(scheme=scheme)}'.")
        for name, value in (headers or {}).items():
            if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
                raise InvalidInput(f"headers has {name!r}, which is no name of a header.")
            if not re.fullmatch(r"[\t\x20-\x7e]*", value):
                # The value may be a secret.
                raise InvalidInput(f"headers[{name!r}] is not printable ASCII, which is all that a header may hold.")
        tls = tls or Tls()
        lower = {name.lower(): value for name, value in (headers or {}).items()}
        return cls(tls, None if len(plain) == len(addresses) else tls.context(), lower)
