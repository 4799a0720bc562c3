"""Certificates that are exchanged under a running server, as cert-manager does it."""

import asyncio
import contextlib
import logging
import os
import ssl

import grpc
import pytest
import trustme
import uvicorn
from cryptography import x509

from service.composition.tls import Tls

LONG_S = 60.0
LOOK_S = 0.01


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def issue(authority, tmp_path):
    """Writes a new certificate and its key over the old ones; returns its serial number."""

    def write(name, blob):
        (tmp_path / f"{name}.new").write_bytes(blob)
        os.replace(tmp_path / f"{name}.new", tmp_path / name)

    def issue(*names):
        made = authority.issue_cert("127.0.0.1")
        blobs = {"certificate": made.cert_chain_pems[0].bytes(), "key": made.private_key_pem.bytes()}
        for name in names or blobs:
            write(name, blobs[name])
        return x509.load_pem_x509_certificate(blobs["certificate"]).serial_number

    return issue


async def serial_shown_at(port, authority):
    """Serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(shown).serial_number


async def nothing(_scope, _receive, _send):
    """An application that is never asked."""


@pytest.fixture
async def ports(issue, tmp_path):
    """Where HTTP's and gRPC's sides of a `Tls` are shown, with the first certificate."""
    issue()
    tls = Tls(tmp_path / "certificate", tmp_path / "key", None)
    config = uvicorn.Config(nothing, log_config=None, **tls.for_uvicorn())
    config.load()
    https = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=config.ssl)
    rpc = grpc.aio.server()
    rpc_port = rpc.add_secure_port("127.0.0.1:0", tls.for_grpc())
    await rpc.start()
    keeping = asyncio.create_task(tls.keep_up(config.ssl, LOOK_S))
    yield https.sockets[0].getsockname()[1], rpc_port
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    https.close()
    await https.wait_closed()
    await rpc.stop(0)


async def until_shown(ports, authority, serial):
    async with asyncio.timeout(LONG_S):
        for port in ports:
            while await serial_shown_at(port, authority) != serial:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)


async def test_new_connections_are_shown_the_new_certificate(ports, authority, issue):
    for _ in range(3):
        await until_shown(ports, authority, issue())


async def test_files_that_do_not_fit_leave_the_old_certificate_and_are_told(ports, authority, issue, tmp_path, caplog):
    first = issue()
    await until_shown(ports, authority, first)
    for spoil in (lambda: issue("certificate"), lambda: (tmp_path / "key").write_text("?"), (tmp_path / "key").unlink):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            spoil()
            async with asyncio.timeout(LONG_S):
                while "the certificate known before stays" not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
        assert [await serial_shown_at(port, authority) for port in ports] == [first, first]
    await until_shown(ports, authority, issue())
