"""What leaves the service, and when the rest is gone: the promises of docs/SECURITY.md."""

import io
import os
import subprocess
import sys

import pytest
from PIL import Image, PngImagePlugin

from tests.job_client import PNG, ask, problem
from tests.pictures import pixels
from tests.processes import ROOT, until
from tests.serving import fake_service

PLACE = b"Rue-de-la-Paix"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><exif:GPSLatitude>48,52N</exif:GPSLatitude>" + PLACE + b"</x:xmpmeta>"
GPS, AREA, MAKER_NOTE, EXIF, MAKE = 0x8825, 0x1C, 0x927C, 0x8769, 0x010F


def photo_with_places(kind):
    """A photo that says where it was taken in every way that its format has."""
    exif = Image.Exif()
    exif[MAKE] = "Maker"
    exif.get_ifd(GPS).update({1: "N", 2: (48.0, 52.0, 7.0), AREA: PLACE})
    exif.get_ifd(EXIF)[MAKER_NOTE] = PLACE
    buffer, image = io.BytesIO(), Image.fromarray(pixels())
    extra = {"xmp": XMP, "comment": PLACE} if kind == "JPEG" else {"xmp": XMP}
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        texts.add_text("Location", PLACE.decode())
        extra = {"pnginfo": texts}
    image.save(buffer, kind, exif=exif.tobytes(), **extra)
    data = buffer.getvalue()
    assert data.count(PLACE) >= 3
    return data


@pytest.fixture(scope="module")
def client():
    with fake_service() as (client, _):
        yield client


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("wanted", ["jpeg", "png", "webp"])
def test_no_place_leaves_whatever_comes_in_and_goes_out(client, kind, wanted):
    data = photo_with_places(kind)
    restored = client.post("/restore", files={"image": data}, data={"output_format": wanted})
    report = client.get(restored.headers["location"])
    assert restored.headers["content-type"] == f"image/{wanted}"
    for told in (restored.content, report.content):
        assert PLACE not in told
        assert b"GPS" not in told
    with Image.open(io.BytesIO(restored.content)) as image:
        assert image.getexif()[MAKE] == "Maker"  # the rest is the photo's
        assert GPS not in image.getexif()
        assert "xmp" not in image.info


def test_deleted_is_gone_at_once(client):
    where = ask(client).headers["location"]
    assert client.delete(where).status_code == 204
    for path in (where, f"{where}/result", f"{where}/events"):
        problem(client.get(path), 404, "not_found")
    problem(client.delete(where), 404, "not_found")


def test_what_nobody_deletes_goes_by_itself():
    with fake_service(result_ttl_s=1) as (client, _):
        kept = client.post("/restore", files={"image": PNG}).headers["location"]
        ended = ask(client, Prefer="wait=30")
        assert ended.json()["status"] == "succeeded"
        job = ended.headers["location"]
        until(lambda: [client.get(path).status_code for path in (kept, job, f"{job}/result")] == [404] * 3)


def test_results_are_kept_for_an_hour_unless_the_operator_says_otherwise(client):
    assert client.get("/v1/limits").json()["result_ttl_s"] == 3600


def test_photos_are_kept_by_no_cache_on_the_way(client):
    restored = client.post("/restore", files={"image": PNG})
    where = restored.headers["location"]
    for answer in (restored, client.get(where), client.get(f"{where}/result")):
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("package", ["service", "latent_pmrf", "export"])
def test_the_runtime_tells_its_makers_nothing(package, tmp_path):
    """onnxruntime keeps a name for the machine in HOME, and what it will send, as soon as it is imported."""
    told = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    script = f"import {package}, onnxruntime; onnxruntime.InferenceSession"
    subprocess.run(
        [sys.executable, "-c", script], env={**told, "HOME": str(tmp_path)}, cwd=ROOT, check=True, timeout=120
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
