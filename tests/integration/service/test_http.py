"""The HTTP interface through a real server, with a fake queue and detector behind the real stages."""

from __future__ import annotations

import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from openapi_spec_validator import validate
from PIL import Image, ImageCms

from service.api.problems import catalogue
from service.core.errors import InferenceFailed
from service.stages.containers.png_writer import write_png
from tests.fakes import EchoBroker, FakeDetector, HeldBroker, face_at
from tests.pictures import animated, decoded, encoded, pixels, png_bomb
from tests.processes import until
from tests.serving import fake_service

PNG = encoded()


@pytest.fixture(scope="module")
def client():
    with fake_service(max_upload_bytes=1_000_000) as (client, _):
        yield client


def send(client, data=PNG, options=None, **headers):
    return client.post("/restore", files={"image": ("photo", data)}, data=options, headers=headers)


def problem(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert "Traceback" not in response.text
    return response.json()


def test_a_photo_comes_back_restored(client):
    response = send(client, options={"fidelity": "1", "seed": "5"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-restoration-seed"] == "5"
    assert (response.headers["x-faces-restored"], response.headers["x-faces-skipped"]) == ("1", "0")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "decode;dur=" in response.headers["server-timing"]
    assert np.abs(decoded(response.content).astype(int) - pixels()).max() <= 6


def test_report_image_and_deletion(client):
    response = send(client)
    where = response.headers["location"]
    report = client.get(where).json()
    assert (report["status"], report["model"], report["num_steps"]) == ("succeeded", "tiny@7", 4)
    assert report["faces"][0]["status"] == "restored"
    assert report["urls"] == {"report": where, "result": f"{where}/result"}
    assert client.get(report["urls"]["result"]).content == response.content
    assert client.delete(where).status_code == 204
    for gone in (client.get(where), client.get(f"{where}/result"), client.delete(where)):
        problem(gone, 404, "not_found")


def test_the_report_at_once(client):
    response = send(client, Accept="application/json")
    assert response.headers["content-type"] == "application/json"
    report = response.json()
    assert report == client.get(report["urls"]["report"]).json()
    assert client.get(report["urls"]["result"]).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("accept", "options", "expected"),
    [
        ("*/*", {}, "image/png"),
        ("image/webp", {}, "image/webp"),
        ("image/png;q=0.2, image/jpeg;q=0.8", {}, "image/jpeg"),
        ("image/*", {"output_format": "jpeg"}, "image/jpeg"),
        ("application/json;q=0.5, image/webp", {}, "image/webp"),
    ],
)
def test_accept(client, accept, options, expected):
    response = send(client, options=options, Accept=accept)
    assert response.headers["content-type"] == expected
    assert response.headers["vary"] == "Accept"
    assert decoded(response.content).shape == (100, 120, 3)


def test_the_result_is_not_kept_above_the_budget():
    with fake_service(result_cache_bytes=0) as (client, _):
        assert "location" not in send(client).headers
        report = send(client, Accept="application/json").json()
    assert report["urls"] is None
    assert report["expires_at"] is None


BAD = {
    "empty upload": ({"image": ("a.jpg", b"")}, {}, {}, 400, "empty_upload"),
    "text named jpg": ({"image": ("a.jpg", b"hello, this is a text")}, {}, {}, 415, "unsupported_format"),
    "truncated JPEG": ({"image": ("a.jpg", encoded(kind="JPEG")[:700])}, {}, {}, 422, "corrupt_image"),
    "bomb": ({"image": ("a.png", png_bomb())}, {}, {}, 413, "image_too_large"),
    "animated GIF": ({"image": ("a.gif", animated("GIF"))}, {}, {}, 415, "unsupported_format"),
    "animated WebP": ({"image": ("a.webp", animated("WEBP"))}, {}, {}, 422, "animated_image"),
    "tiny photo": ({"image": ("a.png", encoded(pixels(20, 20)))}, {}, {}, 422, "image_too_small"),
    "too many bytes": ({"image": ("a.png", bytes(1_100_000))}, {}, {}, 413, "upload_too_large"),
    "no photo field": ({"photo": ("a.png", PNG)}, {}, {}, 400, "malformed_request"),
    "wrong value": ({"image": ("a.png", PNG)}, {"fidelity": "2"}, {}, 422, "invalid_option"),
    "wrong type": ({"image": ("a.png", PNG)}, {"num_steps": "many"}, {}, 422, "invalid_option"),
    "above the bundle's maximum": ({"image": ("a.png", PNG)}, {"num_steps": "21"}, {}, 422, "invalid_option"),
    "unknown option": ({"image": ("a.png", PNG)}, {"fidelty": "1"}, {}, 422, "invalid_option"),
    "not square": ({"image": ("a.png", PNG)}, {"aligned": "true"}, {}, 422, "invalid_option"),
    "nothing acceptable": ({"image": ("a.png", PNG)}, {}, {"Accept": "text/html"}, 406, "not_acceptable"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_have_their_own_codes_and_the_service_goes_on(client, case):
    files, options, headers, status, code = BAD[case]
    document = problem(client.post("/restore", files=files, data=options, headers=headers), status, code)
    assert document["detail"]
    assert client.get(document["type"]).json()["code"] == code
    assert send(client).status_code == 200


def test_no_body_and_a_wrong_content_type(client):
    problem(client.post("/restore"), 400, "empty_upload")
    problem(client.post("/restore", content=PNG, headers={"Content-Type": "image/png"}), 415, "unsupported_media_type")
    problem(client.post("/restore", json={"image": "x"}), 415, "unsupported_media_type")


def test_an_invalid_option_says_what_is_allowed(client):
    document = problem(send(client, options={"fidelity": "2"}), 422, "invalid_option")
    assert document["option"] == "fidelity"
    assert document["allowed"] == {"type": "number", "minimum": 0, "maximum": 1}


def test_a_body_longer_than_declared_or_of_unknown_length_is_cut_off(client):
    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        for _ in range(200):
            yield b"x" * 10_000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    problem(client.post("/restore", content=endless(), headers=headers), 413, "upload_too_large")
    assert send(client).status_code == 200


def test_every_code_is_explained_under_its_type(client):
    for code, entry in catalogue().items():
        explained = client.get(f"/problems/{code}").json()
        assert explained["meaning"]
        assert (explained["status"], explained["retryable"]) == (entry["status"], entry["retryable"])


def test_a_deep_photo_with_alpha_profile_and_position(client):
    place = Image.Exif()
    place[0x010F] = "Maker"
    place.get_ifd(0x8825)[1] = "N"
    fade = np.tile(np.linspace(0, 65535, 120).astype(np.uint16), (100, 1))
    deep = np.dstack([pixels().astype(np.uint16) * 257 + 3, fade])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    response = send(client, write_png(deep, profile, place.tobytes()[6:]), {"fidelity": "0"})
    assert response.headers["content-type"] == "image/png"
    result = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_UNCHANGED)
    result = cv2.cvtColor(result, cv2.COLOR_BGRA2RGBA)
    np.testing.assert_array_equal(result[:, 90:], deep[:, 90:])
    np.testing.assert_array_equal(result[..., 3], fade)
    assert (result[30:45, 25:40, :3] != deep[30:45, 25:40, :3]).any(axis=2).all()
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.info["icc_profile"] == profile
        assert dict(image.getexif()) == {0x010F: "Maker"}


def test_unknown_paths_and_methods(client):
    problem(client.get("/nowhere"), 404, "not_found")
    problem(client.get("/v1/restorations/never"), 404, "not_found")
    refused = client.get("/restore")
    problem(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "POST"
    problem(client.get("/problems/nonsense"), 404, "not_found")
    problem(client.get("/page/../../cli.py"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/restorations/any", "DELETE, GET, HEAD"),
        ("HEAD", "/v1/restorations", "POST"),
        ("PATCH", "/v1/restorations/any/cancel", "POST"),
        ("POST", "/v1/restorations/any/events", "GET"),
        ("DELETE", "/v1/limits", "GET, HEAD"),
        ("PUT", "/page/page.js", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_there_is_told_those_that_are(client, method, path, allowed):
    refused = client.request(method, path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)


def test_head_is_answered_as_get_without_a_body(client):
    where = send(client).headers["location"]
    told = ("content-type", "content-length", "cache-control", "etag", "x-content-type-options", "x-request-id", "vary")
    for path in (
        "/",
        "/docs",
        "/page/page.js",
        "/openapi.json",
        "/livez",
        "/readyz",
        "/v1/limits",
        where,
        f"{where}/result",
    ):
        got, asked = (client.request(method, path, headers={"X-Request-ID": "same"}) for method in ("GET", "HEAD"))
        assert (asked.status_code, asked.content) == (200, b""), path
        for name in told:
            assert asked.headers.get(name) == got.headers.get(name), (path, name)
    assert client.head("/metrics").status_code == 200
    assert client.head("/nowhere").status_code == client.head("/v1/restorations/never").status_code == 404
    assert client.head("/restore").headers["allow"] == "POST"
    assert client.head(f"{where}/events").status_code == 405
    assert all("head" not in methods for methods in client.get("/openapi.json").json()["paths"].values())


def test_no_face_and_a_crowd():
    with fake_service(detector=FakeDetector(lambda _: [])) as (client, _):
        problem(send(client), 422, "no_face_found")
        allowed = send(client, options={"faces": "any"})
        assert allowed.headers["x-faces-restored"] == "0"
        np.testing.assert_array_equal(decoded(allowed.content), pixels())
    with fake_service(detector=FakeDetector(lambda _: [face_at(8, 8, 48)] * 65)) as (client, _):
        document = problem(send(client), 422, "too_many_faces")
        assert (document["faces"], document["max_faces"]) == (65, 64)
        assert send(client, options={"max_faces": "2"}).headers["x-faces-restored"] == "2"


def test_a_failed_network_is_an_error_and_not_the_photo():
    with fake_service(broker=EchoBroker(error=InferenceFailed("velocity failed"))) as (client, _):
        document = problem(send(client), 500, "inference_failed")
    assert document["retryable"] is True


def test_a_defect_leaves_no_trace_in_the_answer():
    class Broken(EchoBroker):
        async def submit(self, faces):
            raise RuntimeError("secret")

    with fake_service(broker=Broken()) as (client, gateway):
        document = problem(send(client), 500, "internal")
        assert "secret" not in json.dumps(document)
        assert document["instance"].startswith("urn:uuid:")
        assert gateway.admission.active == 0


def test_a_full_service_answers_at_once_when_to_come_back():
    broker = HeldBroker()
    with fake_service(broker=broker, places=1, waiting=0) as (client, _), ThreadPoolExecutor(1) as other:
        first = other.submit(send, client)
        assert broker.begun.acquire(timeout=20)
        refused = send(client)
        problem(refused, 429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        broker.go.set()
        assert first.result(timeout=20).status_code == 200
        assert send(client).status_code == 200


def test_bodies_in_memory_are_bounded_too():
    broker = HeldBroker()
    with fake_service(broker=broker, uploads=1) as (client, _), ThreadPoolExecutor(1) as other:
        first = other.submit(send, client)
        assert broker.begun.acquire(timeout=20)
        problem(send(client), 429, "queue_full")
        broker.go.set()
        assert first.result(timeout=20).status_code == 200
        problem(send(client, options={"quality": "101"}), 422, "invalid_option")
        text = client.get("/metrics").text
    for line in (
        'restore_rejected_total{reason="queue_full"} 1.0',
        'restore_rejected_total{reason="invalid_option"} 1.0',
    ):
        assert line in text.splitlines()
    for code in ("queue_full", "invalid_option"):
        assert f'restore_photos_total{{outcome="{code}"' not in text


def test_what_the_gateway_refuses_counts_once():
    with fake_service() as (client, _):
        problem(send(client, PNG[:300]), 422, "corrupt_image")
        text = client.get("/metrics").text
    assert 'restore_rejected_total{reason="corrupt_image"} 1.0' in text
    assert 'restore_photos_total{outcome="corrupt_image"} 1.0' in text


def test_a_hang_up_cancels_the_work():
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, gateway):
        request = client.build_request("POST", "/restore", files={"image": ("a.png", PNG)})
        body = request.read()
        head = f"POST /restore HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"Content-Type: {request.headers['content-type']}\r\n\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(head.encode() + body)
            assert broker.begun.acquire(timeout=20)
        assert broker.dropped.wait(timeout=20)
        assert client.get("/livez").status_code == 200
        until(lambda: gateway.admission.active == 0)
        counted = 'restore_requests_total{code="499",route="/restore"} 1.0'
        until(lambda: counted in client.get("/metrics").text)


def test_the_deadline_is_a_problem():
    with fake_service(broker=HeldBroker(), request_timeout_s=1.0) as (client, _):
        problem(send(client), 504, "deadline_exceeded")


def test_draining_is_said():
    with fake_service() as (client, gateway):
        gateway.admission.close()
        refused = send(client)
        problem(refused, 503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["connection"] == "close"  # the next attempt may find another instance


def test_health(client):
    for path in ("/livez", "/v2/health/live"):
        assert client.get(path).json() == {"live": True}
    for path in ("/readyz", "/v2/health/ready"):
        assert client.get(path).json() == {"ready": True, "reasons": []}
    with fake_service(reasons=["the worker has stopped"]) as (other, _):
        refused = other.get("/readyz")
    assert refused.status_code == 503
    assert refused.json() == {"ready": False, "reasons": ["the worker has stopped"]}


def test_limits(client):
    limits = client.get("/v1/limits").json()
    assert limits["max_upload_bytes"] == 1_000_000
    assert limits["options"]["num_steps"]["maximum"] == 20
    assert limits["options"]["num_steps"]["default"] == 4
    assert limits["options"]["fidelity"]["default"] == 1.0


def test_metrics_have_routes_and_no_ids(client):
    where = send(client).headers["location"]
    client.get(where)
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    assert 'route="/v1/restorations/{restoration_id}"' in text
    assert 'restore_requests_total{code="404",route="unmatched"}' in text
    assert 'restore_stage_duration_seconds_count{stage="decode"}' in text
    assert where.rsplit("/", 1)[1] not in text
    assert "nowhere" not in text


def test_the_openapi_document_is_valid_and_complete(client):
    document = client.get("/openapi.json").json()
    validate(document)
    form = document["paths"]["/restore"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", *client.get("/v1/limits").json()["options"]}
    answers = document["paths"]["/restore"]["post"]["responses"]
    assert {"200", "400", "401", "406", "413", "415", "422", "429", "500", "503", "504", "default"} == set(answers)
    assert {"image/png", "application/json"} <= set(answers["200"]["content"])
    assert "queue_full" in answers["429"]["content"]["application/problem+json"]["examples"]
    assert "HTTPValidationError" not in json.dumps(document)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path


def test_what_is_documented_is_what_is_sent(client):
    document = client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["RestorationSchema"]
    report = send(client, Accept="application/json").json()
    assert set(report) == set(schema["properties"])
    sample = schema["examples"][0]
    assert set(sample) == set(report)
    assert set(sample["faces"][0]) == set(report["faces"][0])


def test_the_page_and_the_documentation_come_from_here_alone(client):
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "http://" not in page.text
        assert "https://" not in page.text
        assert "<style" not in page.text
        assert 'style="' not in page.text
        for file in ("/page/page.js", "/page/page.css", "/page/docs.js", "/swagger/swagger-ui-bundle.js"):
            assert client.get(file).status_code == 200
