"""The Python clients and `latent-pmrf batch` with a key, and where that key is not."""

import asyncio
import contextlib
import json
import logging
import traceback

import pytest

from service.cli import main
from service.client import AsyncGrpcClient, AsyncHttpClient, GrpcClient, HttpClient, RestorationError, Retry
from tests.api_keys import add_key
from tests.numbered_photos import is_restored, number_of, numbered
from tests.processes import service_process

ONCE = Retry(attempts=1)
ALIGNED = ("--aligned", "--output-format", "png")
OK, FAILED, USAGE = 0, 1, 2


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(keys):
    return add_key(keys, "shop")


@pytest.fixture(scope="module")
def running(arithmetic_bundle, tmp_path_factory, keys, key):
    log = tmp_path_factory.mktemp("log") / "service.log"
    with service_process(arithmetic_bundle, log, grpc_port=-1, api_keys_file=keys) as service:
        yield service


@pytest.fixture(params=["http", "grpc"])
def connect(request, running, monkeypatch):
    monkeypatch.delenv("LATENT_PMRF_API_KEY", raising=False)
    kind, where = (
        (HttpClient, str(running.client.base_url)) if request.param == "http" else (GrpcClient, running.rpc_address)
    )
    return lambda **arguments: kind(where, retry=ONCE, **arguments)


def test_a_client_with_a_key_does_all_that_a_client_does(connect, key):
    with connect(api_key=key) as client:
        restored = client.restore(numbered(7), aligned=True, output_format="png")
        job = client.submit(numbered(8), aligned=True, output_format="png")
        assert [state.status for state in client.watch(job.id)][-1] == "succeeded"
        answers = list(client.restore_batch([], aligned=True))
        result = client.result(job.id)
        client.delete(job.id)
    assert (number_of(restored.image), number_of(result.image), answers) == (7, 8, [])
    assert is_restored(restored.image)


def test_without_a_key_it_is_told_so_and_does_not_try_again(connect):
    with connect() as client, pytest.raises(RestorationError) as refused:
        client.restore(numbered(7))
    assert (refused.value.code, refused.value.retryable) == ("unauthenticated", False)


def test_the_key_may_be_in_the_environment(connect, key, monkeypatch):
    monkeypatch.setenv("LATENT_PMRF_API_KEY", f"{key}\n")
    with connect() as client:
        assert client.limits().max_faces > 0
    with connect(api_key="") as client, pytest.raises(RestorationError):
        client.limits()


def test_a_key_goes_beside_what_a_proxy_asks_for(connect, key):
    with connect(api_key=key, headers={"Authorization": "Bearer of-the-proxy"}) as client:
        assert client.limits().max_faces > 0


@pytest.mark.parametrize("text", ["lpmrf_1\r\nX-Other: 2", "lpmrf_ü", "lpmrf_a b", "lpmrf_\0"])
def test_what_can_be_no_key_is_refused_without_being_told(connect, text):
    with pytest.raises(ValueError, match="has characters that no key has") as refused:
        connect(api_key=text)
    assert "lpmrf_" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("text", ["of-the-proxy\nX-Other: 2", "of-the-pröxy"])
def test_what_can_be_no_header_is_refused_without_being_told(connect, text):
    with pytest.raises(ValueError, match="'authorization' has characters that no header has") as refused:
        connect(headers={"Authorization": f"Bearer {text}"})
    assert "of-the" not in "".join(traceback.format_exception(refused.value))


@contextlib.contextmanager
def everything_logged():
    """Every record of every logger, as it would be written."""
    written = []

    class Ear(logging.Handler):
        def emit(self, record):
            written.append(f"{record.getMessage()} {record.args!r} {record.__dict__!r}")

    root, ear = logging.getLogger(), Ear(logging.NOTSET)
    before = root.level
    root.addHandler(ear)
    root.setLevel(logging.NOTSET)
    try:
        yield written
    finally:
        root.removeHandler(ear)
        root.setLevel(before)


async def test_a_key_is_in_no_log_repr_or_traceback_of_a_client(running, key):
    wrong = key[:-4] + "AAAA"
    with everything_logged() as written:
        for kind, where in ((AsyncHttpClient, str(running.client.base_url)), (AsyncGrpcClient, running.rpc_address)):
            async with kind(where, api_key=wrong, retry=ONCE) as client:
                with pytest.raises(RestorationError) as refused:
                    await client.restore(numbered(7))
                written.append("".join(traceback.format_exception(refused.value)))
                written += [repr(client), str(client), repr(refused.value), repr(refused.value.as_document())]
            async with kind(
                "http://127.0.0.1:9" if kind is AsyncHttpClient else "127.0.0.1:9", api_key=wrong, retry=ONCE
            ) as client:
                with pytest.raises(RestorationError) as refused:
                    await client.limits()
                written.append("".join(traceback.format_exception(refused.value)))
        await asyncio.sleep(0)
    assert len(written) > 10
    assert [text for text in written if wrong in text or wrong[15:] in text] == []


@pytest.fixture
def batch(running, tmp_path, capsys):
    """Runs the command on three photos; returns its exit status and all that it said and left behind."""
    for number in range(3):
        path = tmp_path / "in" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(numbered(number))

    def run(*arguments):
        given = ["batch", tmp_path / "in", tmp_path / "out", "--server", running.rpc_address, *ALIGNED, *arguments]
        status = main(list(map(str, given)))
        left = [path.read_text() for path in (tmp_path / "out").glob(".*")] if (tmp_path / "out").exists() else []
        return status, "".join([*capsys.readouterr(), *left])

    return run


@pytest.mark.parametrize("way", ["file", "environment"])
def test_a_batch_shows_its_key_and_leaves_it_nowhere(batch, way, key, tmp_path, monkeypatch):
    arguments = ["--report", tmp_path / "report.jsonl"]
    if way == "file":
        (tmp_path / "key").write_text(f"{key}\n")
        arguments += ["--api-key-file", tmp_path / "key"]
    else:
        monkeypatch.setenv("LATENT_PMRF_API_KEY", key)
    status, told = batch(*arguments)
    assert status == OK
    assert [number_of((tmp_path / "out" / f"{number}.png").read_bytes()) for number in range(3)] == [0, 1, 2]
    told += (tmp_path / "report.jsonl").read_text()
    assert all(json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines())
    assert key not in told
    assert key[15:] not in told


def test_a_batch_without_a_key_is_told_so(batch, monkeypatch):
    monkeypatch.delenv("LATENT_PMRF_API_KEY", raising=False)
    status, told = batch()
    assert status == FAILED
    assert "A key is needed" in told


@pytest.mark.parametrize("flag", ["--api-key-file", "--token-file"])
@pytest.mark.parametrize("content", [b"two\nwords", b"two \xff words"], ids=["lines", "no text"])
def test_a_batch_with_what_can_be_no_key_begins_nothing(batch, tmp_path, flag, content):
    (tmp_path / "key").write_bytes(content)
    status, told = batch(flag, tmp_path / "key")
    assert status == USAGE
    assert "two" not in told
    assert "words" not in told
