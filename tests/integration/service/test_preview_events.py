"""Faces on their way, as events: from the bundled networks in one process, and from a worker through Redis."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from redis import Redis

from loadtest.showcase import degraded_astronaut
from tests.fleet import until_ready
from tests.job_client import ask, events_of, problem
from tests.pictures import decoded
from tests.processes import ROOT, service_process

OWN = ROOT / "model_repository"
NOW = {"Prefer": "wait=0"}
OPTIONS = {"num_steps": "12", "fidelity": "0", "seed": "3"}
MANY_STEPS, FEW_STEPS = {"num_steps": "14"}, {"num_steps": "4"}  # a preview after every other step; after every one


@pytest.fixture(scope="module", autouse=True)
def trained():
    if not (OWN / "manifest.json").is_file() or not (OWN / "detector" / "1" / "model.onnx").is_file():
        pytest.skip("model_repository/ has no bundle or no detector")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    with service_process(OWN, tmp_path_factory.mktemp("log") / "service.log", inference_threads=1) as running:
        yield running.client


def restored_with_events(client, photo=None, **options):
    where = ask(client, photo or degraded_astronaut(), {**OPTIONS, **options}, **NOW).headers["location"]
    return where, events_of(client, where)


def picture_of(preview):
    kind, _, data = preview["image"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert len(data) < 20_000
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def check(client, where, events, num_steps):
    """Previews that come in order, lie where the face is, and lead to what comes out."""
    report = events[-1][2]
    (face,) = report["faces"]
    previews = [data for name, number, data in events if name == "preview" and number is None]
    assert 3 <= len(previews) <= 12
    steps = [preview["steps_done"] for preview in previews]
    assert steps == sorted(set(steps))
    assert {(preview["face_index"], preview["num_steps"]) for preview in previews} == {(0, num_steps)}
    result = decoded(client.get(f"{where}/result").content) / 255
    a, b, c, d, e, f = previews[-1]["matrix"]
    left, top, right, bottom = face["box"]
    assert left < (a + c) / 2 + e < right
    assert top < (b + d) / 2 + f < bottom
    middle = np.array([(u, v) for v in np.linspace(0.3, 0.8, 40) for u in np.linspace(0.3, 0.7, 40)])
    xs, ys = (middle @ [(a, b), (c, d)] + (e, f)).astype(int).T
    off = []
    for preview in (previews[0], previews[-1]):
        seen = picture_of(preview) / 255
        columns, rows = (middle * (seen.shape[1], seen.shape[0])).astype(int).T
        off.append(np.abs(seen[rows, columns] - result[ys, xs]).mean())
    assert off[1] < off[0]
    assert off[1] < 0.03


def test_a_face_is_seen_on_its_way(embedded):
    check(embedded, *restored_with_events(embedded, preview="true", **MANY_STEPS), 14)


def test_a_face_of_a_photo_without_colour_is_seen_without(embedded):
    grey = io.BytesIO()
    Image.open(io.BytesIO(degraded_astronaut())).convert("L").save(grey, "PNG")
    _, events = restored_with_events(embedded, grey.getvalue(), preview="true")
    seen = [picture_of(data) for name, _, data in events if name == "preview"]
    assert len(seen) >= 3
    assert max(np.ptp(picture, axis=2).max() for picture in seen) <= 2


def test_who_does_not_ask_is_shown_nothing(embedded):
    for options in ({}, {"preview": "false"}):
        _, events = restored_with_events(embedded, **options, **FEW_STEPS)
        assert {name for name, *_ in events} == {"status", "end"}


def test_previews_are_for_jobs_only(embedded):
    refused = embedded.post("/restore", files={"image": degraded_astronaut()}, data={"preview": "true"})
    assert problem(refused, 422, "invalid_option")["option"] == "preview"


def test_a_worker_shows_its_faces_through_redis(fleet):
    gateway, other, worker = fleet.start("gateway", "gateway", "worker", bundle=OWN)
    until_ready(gateway, other, worker)
    where = ask(gateway.client, degraded_astronaut(), {**OPTIONS, "preview": "true"}, **NOW).headers["location"]
    check(other.client, where, events_of(other.client, where), 12)
    names = {key.decode() for key in _keys(fleet)}
    assert names
    assert not [name for name in names if "preview" in name]


def _keys(fleet):
    with Redis.from_url(fleet.server.url) as client:
        return client.keys("*")
