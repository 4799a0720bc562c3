"""HTTPS and gRPC over TLS, with and without certificates of clients, in a process as it is started."""

import contextlib
import re
import socket
import ssl

import grpc
import httpx
import pytest
import trustme

from service.cli import main
from service.client import GrpcClient, HttpClient, RestorationError, Retry, ServerUnreachable
from tests.numbered_photos import number_of, numbered
from tests.processes import command, environment, spawn, until

ONCE = Retry(attempts=1)
ADDRESSES = re.compile(
    r"gRPC with TLS on (127\.0\.0\.1:\d+)\nRestoring photos on (https://127\.0\.0\.1:\d+)$", re.MULTILINE
)
USAGE = 2


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """Names of files: a server's certificate and key, those of who vouches for it and for clients, a client's own."""
    folder, authority, clients = tmp_path_factory.mktemp("pem"), trustme.CA(), trustme.CA()
    server, client = authority.issue_cert("127.0.0.1", "localhost"), clients.issue_cert("shop.example")
    blobs = {
        "certificate": b"".join(blob.bytes() for blob in server.cert_chain_pems),
        "key": server.private_key_pem.bytes(),
        "authority": authority.cert_pem.bytes(),
        "client_authority": clients.cert_pem.bytes(),
        "client_certificate": b"".join(blob.bytes() for blob in client.cert_chain_pems),
        "client_key": client.private_key_pem.bytes(),
    }
    for name, blob in blobs.items():
        (folder / name).write_bytes(blob)
    return {name: folder / name for name in blobs}


@contextlib.contextmanager
def serving_with(bundle, log, **settings):
    """A process; the value is where it answers HTTP and gRPC."""
    child = spawn(command("serve", "--port", "0"), environment(bundle, grpc_port=-1, **settings), log)
    try:
        until(lambda: ADDRESSES.search(log.read_text()) or child.poll() is not None)
        found = ADDRESSES.search(log.read_text())
        assert found is not None, log.read_text()
        yield found[2], found[1]
    finally:
        child.terminate()
        child.wait(60)


@pytest.fixture(scope="module")
def plain(arithmetic_bundle, tmp_path_factory, pem):
    files = {"tls_certificate_file": pem["certificate"], "tls_key_file": pem["key"]}
    with serving_with(arithmetic_bundle, tmp_path_factory.mktemp("log") / "log", **files) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def mutual(arithmetic_bundle, tmp_path_factory, pem):
    files = {"tls_certificate_file": pem["certificate"], "tls_key_file": pem["key"]}
    files["tls_client_ca_file"] = pem["client_authority"]
    with serving_with(arithmetic_bundle, tmp_path_factory.mktemp("log") / "log", **files) as addresses:
        yield addresses


def trusting(pem, *, shows_certificate=False):
    context = ssl.create_default_context(cafile=str(pem["authority"]))
    if shows_certificate:
        context.load_cert_chain(pem["client_certificate"], pem["client_key"])
    return context


def grpc_credentials(pem, *, shows_certificate=False):
    own = [pem[name].read_bytes() for name in ("client_key", "client_certificate")] if shows_certificate else []
    return grpc.ssl_channel_credentials(pem["authority"].read_bytes(), *own)


def test_photos_travel_encrypted(plain, pem):
    https, rpc = plain
    with HttpClient(https, verify=trusting(pem), retry=ONCE) as client:
        assert number_of(client.restore(numbered(7), aligned=True, output_format="png").image) == 7
    with GrpcClient(rpc, credentials=grpc_credentials(pem), retry=ONCE) as client:
        assert number_of(client.restore(numbered(8), aligned=True, output_format="png").image) == 8


def test_who_does_not_know_the_authority_hangs_up(plain):
    https, rpc = plain
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{https}/livez", trust_env=False)
    stranger = GrpcClient(rpc, credentials=grpc.ssl_channel_credentials(), retry=ONCE, timeout_s=20)
    with stranger, pytest.raises(RestorationError):
        stranger.limits()


def test_nothing_is_answered_in_the_clear(plain):
    https, rpc = plain
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{https.replace('https', 'http')}/livez", trust_env=False)
    with GrpcClient(rpc, retry=ONCE, timeout_s=20) as client, pytest.raises(RestorationError):
        client.limits()


def test_old_versions_of_tls_are_refused(plain, pem):
    host, port = plain[0].removeprefix("https://").split(":")
    context = trusting(pem)
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((host, int(port)), timeout=30) as connection,
        pytest.raises((ssl.SSLError, OSError)),
        context.wrap_socket(connection, server_hostname=host),
    ):
        pass


def test_tls_1_2_has_forward_secrecy_and_authenticated_ciphers(plain, pem):
    host, port = plain[0].removeprefix("https://").split(":")
    context = trusting(pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((host, int(port)), timeout=30) as connection,
        context.wrap_socket(connection, server_hostname=host) as encrypted,
    ):
        assert re.match(r"ECDHE-.*(GCM|CHACHA20)", encrypted.cipher()[0])


def test_clients_with_a_certificate_are_served(mutual, pem):
    https, rpc = mutual
    with HttpClient(https, verify=trusting(pem, shows_certificate=True), retry=ONCE) as client:
        assert client.limits().max_faces > 0
    with GrpcClient(rpc, credentials=grpc_credentials(pem, shows_certificate=True), retry=ONCE) as client:
        assert client.limits().max_faces > 0


def test_clients_without_one_are_not(mutual, pem):
    https, rpc = mutual
    with HttpClient(https, verify=trusting(pem), retry=ONCE) as client, pytest.raises(ServerUnreachable):
        client.limits()
    stranger = GrpcClient(rpc, credentials=grpc_credentials(pem), retry=ONCE, timeout_s=20)
    with stranger, pytest.raises(RestorationError):
        stranger.limits()


def test_a_batch_shows_its_certificate(mutual, pem, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "7.png").write_bytes(numbered(7))
    given = ["batch", tmp_path / "in", tmp_path / "out", "--server", mutual[1], "--aligned", "--ca", pem["authority"]]
    given += ["--certificate", pem["client_certificate"], "--private-key", pem["client_key"]]
    assert main(list(map(str, given))) == 0
    assert number_of((tmp_path / "out" / "7.png").read_bytes()) == 7


def encrypted_key(pem, tmp_path):
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(pem["key"].read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked").write_bytes(locked)
    return tmp_path / "locked"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"certificate": "certificate"}, "TLS needs both"),
        ({"key": "key"}, "TLS needs both"),
        ({"client_ca": "client_authority"}, "TLS needs both"),
        ({"certificate": "certificate", "key": "client_key"}, "TLS_CERTIFICATE_FILE"),
        ({"certificate": "key", "key": "certificate"}, "TLS_CERTIFICATE_FILE"),
        ({"certificate": "nowhere", "key": "key"}, "TLS_CERTIFICATE_FILE"),
        ({"certificate": "certificate", "key": "locked"}, "encrypted"),
        ({"certificate": "certificate", "key": "key", "client_ca": "key"}, "TLS_CLIENT_CA_FILE"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_files_that_do_not_fit_are_a_refusal_to_start(
    files, told, pem, tmp_path, monkeypatch, capsys, arithmetic_bundle
):
    known = {**pem, "nowhere": tmp_path / "nowhere", "locked": encrypted_key(pem, tmp_path)}
    monkeypatch.setenv("LATENT_PMRF_MODEL_REPOSITORY", str(arithmetic_bundle))
    for name, which in files.items():
        monkeypatch.setenv(f"LATENT_PMRF_TLS_{name.upper()}_FILE", str(known[which]))
    assert main(["serve", "--port", "0"]) == USAGE
    assert told in capsys.readouterr().err
