"""PEM files in, what encrypts HTTP and gRPC out; files that are exchanged are taken up by a running process.

What is wrong with the files at the start is said before anything listens.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from service.core.settings import ENV_PREFIX, Settings, UnusableSettings

_LOOK_S = 30.0

logger = logging.getLogger(__name__)


class _Pair(NamedTuple):
    """What the files hold."""

    key: bytes
    certificate: bytes


class Tls:
    """How connections are encrypted.

    Args:
        certificate_file: PEM of the certificate and its chain.
        key_file: PEM of its key.
        client_ca_file: PEM of who vouches for clients; None: clients need no certificate.

    Raises:
        UnusableSettings: One of the files cannot be used, or key and certificate do not fit.
    """

    def __init__(self, certificate_file: Path, key_file: Path, client_ca_file: Path | None) -> None:
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._client_ca_file = client_ca_file
        try:
            self._pair = self._read()
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            raise UnusableSettings(f"{ENV_PREFIX}TLS_CERTIFICATE_FILE, _KEY_FILE: {_reason(error)}") from None
        self._authorities = None if client_ca_file is None else _read_authorities(client_ca_file)
        self._told = self._pair  # what gRPC knows

    def for_uvicorn(self) -> dict[str, Any]:
        """Arguments of its configuration. Python speaks TLS 1.2 and later; of 1.2 only what is as good as 1.3."""
        return {
            "ssl_certfile": str(self._certificate_file),
            "ssl_keyfile": str(self._key_file),
            "ssl_ca_certs": None if self._client_ca_file is None else str(self._client_ca_file),
            "ssl_cert_reqs": ssl.CERT_NONE if self._client_ca_file is None else ssl.CERT_REQUIRED,
            "ssl_ciphers": "ECDHE+AESGCM:ECDHE+CHACHA20",
        }

    def for_grpc(self) -> grpc.ServerCredentials:
        """The same for gRPC, which asks at every connection whether there is something new."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._news,  # type: ignore[arg-type] # which may be None, says the library's documentation
            require_client_authentication=self._authorities is not None,
        )

    async def keep_up(self, context: ssl.SSLContext, look_s: float = _LOOK_S) -> None:
        """Take up files that are exchanged, for ever; what cannot be used is told in the log, and the old pair stays.

        Args:
            context: Of HTTP, which gets the new pair for new connections.
            look_s: Seconds between two looks.
        """
        while True:
            await asyncio.sleep(look_s)
            try:
                pair = self._read()
                if pair != self._pair:
                    context.load_cert_chain(self._certificate_file, self._key_file, password=_refuse_to_ask)
                    self._pair = pair
                    logger.warning("the certificate was exchanged")
            except (OSError, ValueError) as error:  # perhaps one file was exchanged, and the other will be
                logger.error("the certificate known before stays: %s", _reason(error))

    def _read(self) -> _Pair:
        """What the files hold now, once it is known to fit.

        Raises:
            OSError: A file cannot be read, or holds something else.
            ValueError: The key is encrypted, or the files were exchanged at this moment.
        """
        pair = _Pair(self._key_file.read_bytes(), self._certificate_file.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate_file, self._key_file, password=_refuse_to_ask)
        if pair != (self._key_file.read_bytes(), self._certificate_file.read_bytes()):
            raise ValueError("the files change")
        return pair

    def _news(self) -> grpc.ServerCertificateConfiguration | None:
        if self._told == self._pair:
            return None
        self._told = self._pair
        return self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([self._pair], self._authorities)


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
    return Tls(certificate, key, client_ca)


def _read_authorities(file: Path) -> bytes:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise UnusableSettings(f"{ENV_PREFIX}TLS_CLIENT_CA_FILE: {_reason(error)}") from None


def _refuse_to_ask() -> str:
    raise ValueError("the key is encrypted; nobody is here to be asked for its password")


def _reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
