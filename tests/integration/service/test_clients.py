"""The Python clients against a real service: every call, over HTTP and over gRPC, blocking and not."""

import contextlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from service.client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    GrpcClient,
    HttpClient,
    Photo,
    RestorationError,
    Retry,
    ServerUnreachable,
)
from tests.numbered_photos import is_restored, number_of, numbered
from tests.pictures import decoded, encoded, saved
from tests.processes import ROOT, service_process

ONCE = Retry(attempts=1)


@pytest.fixture(scope="module")
def running(arithmetic_bundle, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "service.log"
    with service_process(arithmetic_bundle, log, grpc_port=-1, grpc_max_message_bytes=65536) as service:
        yield service


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(request, running):
    over_http = request.param == "http"
    with HttpClient(f"http://127.0.0.1:{running.port}") if over_http else GrpcClient(running.rpc_address) as made:
        yield made


def test_a_photo_comes_back_restored(client):
    restored = client.restore(numbered(7), aligned=True, seed=3, num_steps=1, output_format="png")
    assert number_of(restored.image) == 7
    assert is_restored(restored.image)
    assert restored.media_type == "image/png"
    assert (restored.report.seed, restored.report.num_steps, restored.report.faces_restored) == (3, 1, 1)


def test_a_photo_by_its_path(client, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(numbered(8))
    client.restore(path, aligned=True).save(tmp_path / "restored.png")
    assert number_of((tmp_path / "restored.png").read_bytes()) == 8
    with pytest.raises(FileNotFoundError):
        client.restore(tmp_path / "missing.png")


def test_refusals_have_the_code_and_the_hint(client):
    with pytest.raises(RestorationError) as refused:
        client.restore(encoded())
    assert (refused.value.code, refused.value.retryable) == ("no_face_found", False)
    assert "faces=any" in refused.value.hint
    with pytest.raises(RestorationError) as refused:
        client.restore(numbered(1), num_steps=999)
    assert (refused.value.code, refused.value.values["option"]) == ("invalid_option", "num_steps")


def test_an_option_that_does_not_exist_is_refused_here(client):
    with pytest.raises(TypeError, match="did you mean 'fidelity'"):
        client.restore(numbered(1), fidelty=0.5)


def test_a_batch_answers_every_photo_by_its_name(client, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    photos = [Photo(str(number), numbered(number), {"aligned": True}) for number in range(12)]
    photos += [Photo("wall", encoded()), Photo("text", tmp_path / "text.jpg"), Photo("gone", tmp_path / "gone.jpg")]
    answers = {answer.client_id: answer for answer in client.restore_batch(iter(photos), window=3)}
    numbers = {name: number_of(answer.restored.image) for name, answer in answers.items() if answer.restored}
    assert numbers == {str(number): number for number in range(12)}
    failed = {name: answer.error.code for name, answer in answers.items() if answer.error}
    assert failed == {"wall": "no_face_found", "text": "unsupported_format", "gone": "unreadable"}


def test_a_batch_that_is_left_early_ends_its_work(client):
    pulled = []

    def photos():
        for number in range(1000):
            pulled.append(number)
            yield Photo(str(number), numbered(number), {"aligned": True})

    with contextlib.closing(client.restore_batch(photos(), window=2)) as answers:
        assert next(answers).restored
    assert len(pulled) < 20


def test_a_job_is_watched_and_fetched(client):
    job = client.submit(numbered(9), aligned=True, idempotency_key="nine")
    assert client.submit(numbered(9), aligned=True, idempotency_key="nine").id == job.id
    states = list(client.watch(job.id))
    assert states[-1].status == "succeeded"
    assert states[-1].report.faces_restored == 1
    assert client.get(job.id).report == states[-1].report
    result = client.result(job.id)
    assert number_of(result.image) == 9
    assert result.report.id == job.id
    client.delete(job.id)
    with pytest.raises(RestorationError) as gone:
        client.get(job.id)
    assert gone.value.code == "not_found"


def test_a_job_that_fails_says_why(client):
    job = client.submit(encoded())
    last = list(client.watch(job.id))[-1]
    assert (last.status, last.error.code) == ("failed", "no_face_found")
    assert client.cancel(job.id).status == "failed"


def test_limits(client):
    limits = client.limits()
    assert (limits.model, limits.default_num_steps, limits.max_num_steps) == ("arithmetic@1", 2, 8)
    assert limits.input_formats == ("jpeg", "png", "webp")


def test_a_file_above_the_limit_is_not_sent(client, tmp_path):
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(RestorationError) as refused:
        client.restore(huge)
    assert refused.value.code == "upload_too_large"


def test_the_caller_s_own_deadline(client):
    with pytest.raises(RestorationError) as late:
        client.restore(numbered(1), aligned=True, timeout_s=0.0001)
    assert late.value.code == "deadline_exceeded"


def test_a_photo_above_one_message(client):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    photo = encoded(noise)
    assert len(photo) > 2 * 65536
    restored = client.restore(photo, faces="any")
    np.testing.assert_array_equal(decoded(restored.image), noise)
    (answer,) = client.restore_batch([Photo("noise", photo)], faces="any")
    np.testing.assert_array_equal(decoded(answer.restored.image), noise)
    job = client.submit(photo, faces="any")
    assert list(client.watch(job.id))[-1].status == "succeeded"
    np.testing.assert_array_equal(decoded(client.result(job.id).image), noise)


def test_several_threads_share_a_client(client):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda number: client.restore(numbered(number), aligned=True), range(8)))
    assert [number_of(result.image) for result in results] == list(range(8))


@pytest.mark.parametrize("kind", ["http", "grpc"])
async def test_without_blocking(running, kind):
    made = (
        AsyncHttpClient(f"http://127.0.0.1:{running.port}") if kind == "http" else AsyncGrpcClient(running.rpc_address)
    )
    async with made as client:
        assert decoded((await client.restore(numbered(5), aligned=True)).image).shape == (64, 64, 3)


async def test_progress_of_a_batch(running):
    told = []
    async with AsyncGrpcClient(running.rpc_address) as client:
        photos = [Photo("a", numbered(1), {"aligned": True, "num_steps": 8})]
        batch = client.restore_batch(photos, on_progress=lambda name, progress: told.append((name, progress)))
        answers = [answer async for answer in batch]
    assert answers[0].restored
    assert {name for name, _ in told} == {"a"}
    assert all(progress.num_faces == 1 for _, progress in told)


def test_a_wrong_word_is_refused_here(running):
    with GrpcClient(running.rpc_address) as client, pytest.raises(ValueError, match="all, largest, center, any"):
        client.restore(numbered(1), faces="none")


@pytest.mark.parametrize(
    "make", [lambda: HttpClient("http://127.0.0.1:9", retry=ONCE), lambda: GrpcClient("127.0.0.1:9", retry=ONCE)]
)
def test_nothing_listens(make):
    with make() as client:
        with pytest.raises(ServerUnreachable):
            client.limits()
        with pytest.raises(ServerUnreachable):
            list(client.restore_batch([Photo("a", b"x")]))
    with pytest.raises(RuntimeError, match="closed"):
        client.limits()


def python_blocks(name, heading):
    section = (ROOT / name).read_text().partition(f"\n{heading}\n")[2]
    section = section.partition("\n#")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("name", "heading", "count"), [("README.md", "### Python", 2), ("docs/BATCH.md", "## From Python", 1)]
)
def test_the_first_lines_of_the_documents_run_as_they_are(running, tmp_path, name, heading, count):
    blocks = python_blocks(name, heading)
    assert len(blocks) == count
    (tmp_path / "photos").mkdir()
    for path in ("photo.jpg", "photos/a.jpg", "photos/b.jpg"):
        (tmp_path / path).write_bytes(saved(Image.fromarray(astronaut()).crop((60, 0, 380, 320)), "JPEG"))
    addresses = {"127.0.0.1:8000": f"127.0.0.1:{running.port}", "127.0.0.1:50051": running.rpc_address}
    for block in blocks:
        for written, real in addresses.items():
            block = block.replace(written, real)
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Error" not in done.stdout
    if name == "README.md":
        assert decoded((tmp_path / "restored.jpg").read_bytes()).shape == (320, 320, 3)
        assert {line.split()[1] for line in done.stdout.splitlines()} == {"1"}
