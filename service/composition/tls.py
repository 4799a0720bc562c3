"""PEM files in, what encrypts HTTP and gRPC out; what is wrong with the files is said before anything listens."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from service.core.settings import ENV_PREFIX, Settings, UnusableSettings


@dataclass(frozen=True, slots=True)
class Tls:
    """How connections are encrypted.

    Attributes:
        certificate_file: PEM of the certificate and its chain.
        key_file: PEM of its key.
        client_ca_file: PEM of who vouches for clients; None: clients need no certificate.
        credentials: The same for gRPC.
    """

    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None
    credentials: grpc.ServerCredentials = field(repr=False)

    def for_uvicorn(self) -> dict[str, Any]:
        """Arguments of its configuration. Python speaks TLS 1.2 and later; of 1.2 only what is as good as 1.3."""
        return {
            "ssl_certfile": str(self.certificate_file),
            "ssl_keyfile": str(self.key_file),
            "ssl_ca_certs": None if self.client_ca_file is None else str(self.client_ca_file),
            "ssl_cert_reqs": ssl.CERT_NONE if self.client_ca_file is None else ssl.CERT_REQUIRED,
            "ssl_ciphers": "ECDHE+AESGCM:ECDHE+CHACHA20",
        }


def load_tls(settings: Settings) -> Tls | None:
    """Read the files; None where connections are in the clear.

    Raises:
        UnusableSettings: One is missing or cannot be read, or key and certificate do not fit.
    """
    certificate, key, client_ca = settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise UnusableSettings(f"TLS needs both {ENV_PREFIX}TLS_CERTIFICATE_FILE and {ENV_PREFIX}TLS_KEY_FILE")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # to see that the files are usable
    try:
        context.load_cert_chain(certificate, key, password=_refuse_to_ask)
        pair = (key.read_bytes(), certificate.read_bytes())
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise UnusableSettings(f"{ENV_PREFIX}TLS_CERTIFICATE_FILE, _KEY_FILE: {_reason(error)}") from None
    authorities = None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
            authorities = client_ca.read_bytes()
        except (OSError, ValueError) as error:
            raise UnusableSettings(f"{ENV_PREFIX}TLS_CLIENT_CA_FILE: {_reason(error)}") from None
    credentials = grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)
    return Tls(certificate, key, client_ca, credentials)


def _refuse_to_ask() -> str:
    raise ValueError("the key is encrypted; nobody is here to be asked for its password")


def _reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
