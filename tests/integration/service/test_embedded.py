"""`latent-pmrf serve` in a process of its own: real networks, real detector, real photos, real signals."""

import http.client
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from tests.pictures import animated, decoded, encoded, png_bomb, saved
from tests.processes import ROOT, command, environment, service_process, until

PORTRAIT = Image.fromarray(astronaut())
PHOTO = saved(PORTRAIT.resize((384, 384)), "PNG")
FACE = PORTRAIT.crop((140, 20, 310, 190))


def crowd(columns, rows, side_px=96):
    """A photo of many faces."""
    tile = np.asarray(FACE.resize((side_px, side_px)))
    return encoded(np.tile(tile, (rows, columns, 1)), "JPEG", quality=92)


def send(service, data=PHOTO, options=None, **headers):
    files = {"image": ("photo", data)}
    return service.client.post("/restore", files=files, data=options, headers=headers)


def on_a_wall(colour):
    """The astronaut's head, cut out roughly, before a wall."""
    picture = np.asarray(PORTRAIT).astype(float)
    y, x = np.mgrid[:512, :512]
    head = (((x - 222) / 88) ** 2 + ((y - 115) / 122) ** 2 <= 1) | (
        ((x - 240) / 200) ** 2 + ((y - 420) / 190) ** 2 <= 1
    )
    return np.where(head[..., None], picture, colour).astype(np.uint8)


def printed():
    """The astronaut as a newspaper prints: dots of one black."""
    enlarged = np.asarray(PORTRAIT.convert("L").crop((110, 0, 350, 240)).resize((960, 960)), float)
    y, x = np.mgrid[:960, :960]
    screen = 127.5 + 60 * (np.cos((x + y) * np.pi / 4) + np.cos((x - y) * np.pi / 4))
    return np.clip((enlarged - screen) * 4 + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("bundle", ["own"], indirect=True)
@pytest.mark.parametrize(
    "picture", [on_a_wall((255, 0, 255)), on_a_wall((0, 255, 0)), printed()], ids=["magenta", "green", "printed"]
)
def test_a_face_that_the_networks_do_not_know_comes_back_as_a_face(service, picture):
    response = send(service, saved(Image.fromarray(picture), "PNG"))
    assert response.headers["x-faces-restored"] == "1", response.text
    result, photo = (
        cv2.GaussianBlur(each.astype(np.float32), (0, 0), 20) for each in (decoded(response.content), picture)
    )
    assert np.abs(result - photo).max() < 40


@pytest.mark.parametrize("bundle", ["own"], indirect=True)
def test_a_face_in_the_dark_is_restored_in_the_dark(service):
    small = np.asarray(PORTRAIT.resize((256, 256), Image.Resampling.BOX).resize((512, 512)), float)
    dark = np.rint(small * 0.1).astype(np.uint8)
    response = send(service, saved(Image.fromarray(dark), "PNG"))
    assert response.headers["x-faces-restored"] == "1"
    face = np.s_[60:180, 175:275]
    bright, result = np.asarray(PORTRAIT, float)[face], decoded(response.content)[face] * 10.0
    assert np.sqrt(np.square(result - bright).mean()) < 1.05 * np.sqrt(np.square(small[face] - bright).mean())


def test_health_documents_and_the_bundle_s_limits(service):
    for path in ("/", "/docs", "/livez", "/readyz", "/v2/health/ready", "/metrics", "/openapi.json"):
        assert service.client.get(path).status_code == 200, path
    limits = service.client.get("/v1/limits").json()
    assert limits["max_faces"] == 64
    assert f'restore_build_info{{model="{limits["model"]}"' in service.metrics()
    until(lambda: service.counted("restore_ready") == 1)


def test_a_portrait_comes_back_with_another_face_and_the_same_surroundings(service):
    response = send(service, options={"seed": "3"})
    assert response.status_code == 200, response.text
    assert response.headers["x-faces-restored"] == "1"
    result, photo = decoded(response.content), decoded(PHOTO)
    report = service.client.get(response.headers["location"]).json()
    (face,) = report["faces"]
    left, top, right, bottom = (round(value) for value in face["box"])
    assert left < 168 < right  # the astronaut's nose
    assert top < 90 < bottom
    changed = (result != photo).any(axis=2)
    assert changed[top:bottom, left:right].mean() > 0.9
    side = right - left
    changed[max(0, top - 2 * side) : bottom + 2 * side, max(0, left - 2 * side) : right + 2 * side] = False
    assert not changed.any()
    difference = result[top:bottom, left:right].astype(float) - photo[top:bottom, left:right]
    assert np.abs(difference.mean(axis=(0, 1))).max() < 40
    assert {"decode", "detect", "align", "queue_wait", "estimator", "velocity", "paste", "encode", "total"} <= set(
        report["timings_ms"]
    )


def test_the_same_seed_gives_the_same_photo_and_another_seed_another(service):
    options = {"fidelity": "0", "seed": "7"}
    first, again, other = (send(service, options={**options, "seed": seed}).content for seed in ("7", "7", "8"))
    assert np.abs(decoded(first).astype(int) - decoded(again)).max() <= 1
    assert (decoded(first) != decoded(other)).any()


def test_a_photo_without_colour_gets_none(service):
    three_channels = PORTRAIT.resize((384, 384)).convert("L").convert("RGB")
    result = decoded(send(service, saved(three_channels, "PNG")).content)
    assert (result == result[:, :, :1]).all()
    assert (result != np.asarray(three_channels)).any()


def test_options_reach_the_pipeline(service):
    options = {"fidelity": "1", "num_steps": "1", "upscale": "1.5", "output_format": "webp", "quality": "80"}
    response = send(service, options=options)
    assert response.headers["content-type"] == "image/webp"
    assert decoded(response.content).shape == (576, 576, 3)
    report = service.client.get(response.headers["location"]).json()
    assert (report["fidelity"], report["num_steps"], report["faces"][0]["ind_rmse"]) == (1.0, 1, 0.0)


def test_an_aligned_crop(service):
    response = send(service, saved(FACE.resize((200, 200)), "JPEG"), {"aligned": "true"})
    assert response.headers["x-faces-restored"] == "1"
    assert decoded(response.content).shape == (200, 200, 3)


def test_a_photo_without_a_face(service):
    landscape = encoded(astronaut()[300:, :150])
    refused = send(service, landscape)
    assert (refused.status_code, refused.json()["code"]) == (422, "no_face_found")
    allowed = send(service, landscape, {"faces": "any"})
    assert allowed.headers["x-faces-restored"] == "0"
    np.testing.assert_array_equal(decoded(allowed.content), decoded(landscape))


JPEG = saved(PORTRAIT, "JPEG")
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}
BAD = {
    "empty body": ({"content": b"", "headers": MULTIPART}, 400, "empty_upload"),
    "text renamed": ({"files": {"image": ("a.jpg", b"hello, this is a text")}}, 415, "unsupported_format"),
    "truncated JPEG": ({"files": {"image": ("a.jpg", JPEG[: len(JPEG) // 2])}}, 422, "corrupt_image"),
    "bomb": ({"files": {"image": ("a.png", png_bomb())}}, 413, "image_too_large"),
    "animated WebP": ({"files": {"image": ("a.webp", animated("WEBP"))}}, 422, "animated_image"),
    "more than 64 faces": ({"files": {"image": ("a.jpg", crowd(9, 8))}}, 422, "too_many_faces"),
    "wrong option": ({"files": {"image": ("a.png", PHOTO)}, "data": {"fidelity": "2"}}, 422, "invalid_option"),
    "unknown option": ({"files": {"image": ("a.png", PHOTO)}, "data": {"colour": "1"}}, 422, "invalid_option"),
    "wrong content type": ({"content": PHOTO, "headers": {"Content-Type": "image/png"}}, 415, "unsupported_media_type"),
}


@pytest.mark.parametrize("bundle", ["arithmetic"], indirect=True)  # any: networks have no part in it
@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_own_code_and_the_service_goes_on(service, case):
    request, status, code = BAD[case]
    refused = service.client.post("/restore", **request)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in refused.text + service.log.read_text()
    assert service.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("bundle", ["arithmetic"], indirect=True)  # any: what takes time is to find the faces
def test_a_crowd_is_restored_in_part_when_asked(service):
    response = send(service, crowd(9, 8), {"max_faces": "3"})
    assert response.headers["x-faces-restored"] == "3"
    assert int(response.headers["x-faces-skipped"]) > 60


@pytest.mark.parametrize("bundle", ["own"], indirect=True)
def test_memory_does_not_grow(service):
    def round_of_requests():
        for name, case in BAD.items():
            if name != "more than 64 faces":  # seconds to find them
                service.client.post("/restore", **case[0])
        for fidelity in ("0", "1"):
            location = send(service, options={"fidelity": fidelity}).headers["location"]
            assert service.client.delete(location).status_code == 204

    for _ in range(2):
        round_of_requests()
    before_bytes = service.resident_bytes()
    for _ in range(3):
        round_of_requests()
    assert service.resident_bytes() - before_bytes < 24 * 1024 * 1024


@pytest.mark.parametrize("bundle", ["arithmetic"], indirect=True)  # any: networks have no part in it
def test_a_connection_is_kept_for_longer_than_clients_keep_theirs(service):
    """uvicorn's own 5 s are httpx's, too: now and then a request would meet the end of its connection."""
    url = service.client.base_url
    connection = http.client.HTTPConnection(url.host, url.port)
    for idle_s in (6, 0):
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        assert (answer.status, answer.read() != b"") == (200, True)
        time.sleep(idle_s)
    connection.close()


def test_a_port_in_use_is_said_plainly(service, bundle):
    second = subprocess.run(
        command("serve", "--port", str(service.port)),
        cwd=ROOT,
        env=environment(bundle),
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{service.port}" in second.stderr
    assert "in use" in second.stderr
    assert "Traceback" not in second.stderr
    assert service.client.get("/livez").status_code == 200


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_photo_under_way_finish(arithmetic_bundle, tmp_path, ending):
    large = encoded(np.asarray(PORTRAIT.resize((2400, 2400))), "JPEG")
    with service_process(arithmetic_bundle, tmp_path / "log") as service, ThreadPoolExecutor(1) as other:
        answer = other.submit(send, service, large)
        until(lambda: 'restore_stage_duration_seconds_count{stage="decode"} 1.0' in service.metrics())
        service.child.send_signal(ending)
        response = answer.result(240)
        assert service.child.wait(60) == 0
    assert response.status_code == 200
    assert response.headers["x-faces-restored"] == "1"
    assert "Traceback" not in service.log.read_text()
