"""The TLS of Triton's gRPC port: which files it needs, and whether they can work."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from ._exceptions import BadCertificate


@dataclass(frozen=True)
class Tls:
    """Who the gRPC server is, and whom it lets in; checked on creation.

    Parameters
    ----------
    certificate : Path
        PEM: the server's certificate, then the intermediate ones if there are any.
    key : Path
        PEM: the key of that certificate, not encrypted.
    client_ca : Path, optional
        PEM: the certificates of the authorities one of which must have signed each client's. Without it any client
        may connect.

    Raises
    ------
    BadCertificate
        A file is missing or is not what it should be, or certificate and key do not belong together.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        for file in filter(None, (self.certificate, self.key, self.client_ca)):
            _check_readable(file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # With no password given, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            raise BadCertificate(
                f"the certificate {self.certificate} and the key {self.key} do not work together "
                f"({error.reason or error}). Expected two PEM files, the key not encrypted and that of the first "
                "certificate in the other file."
            ) from error
        if self.client_ca is None:
            return
        try:
            context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            raise BadCertificate(
                f"{self.client_ca} holds no certificate ({error.reason or error}). Expected a PEM file with the "
                "certificate of the authority that signs the clients' certificates."
            ) from error

    @property
    def arguments(self) -> list[str]:
        """What tritonserver must be told."""
        one_way = [
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={self.certificate}",
            f"--grpc-server-key={self.key}",
        ]
        if self.client_ca is None:
            return one_way
        return [*one_way, "--grpc-use-ssl-mutual=true", f"--grpc-root-cert={self.client_ca}"]


def _check_readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise BadCertificate(
            f"cannot read {file} ({error.strerror}). TLS needs the PEM files of a certificate and its key, "
            "readable by the user who serves."
        ) from error
