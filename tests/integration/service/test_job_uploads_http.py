"""A photo that is restored again without being sent again, through a real server."""

import pytest

from tests.api_keys import add_key, bearer
from tests.job_client import PNG, ask, problem
from tests.serving import fake_service

KEEP = {"keep_image": "true", "seed": "5"}


@pytest.fixture(scope="module")
def client():
    with fake_service() as (client, _):
        yield client


def again(client, job_id, options=None, **headers):
    fields = {"image_from": job_id, **(options or {})}
    return client.post("/v1/restorations", files={name: (None, text) for name, text in fields.items()}, headers=headers)


def picture(client, report):
    return client.get(report["urls"]["result"]).content


def test_other_options_for_the_same_photo(client):
    first = ask(client, options={**KEEP, "fidelity": "0"}).json()
    second = again(client, first["id"], {"fidelity": "1", "seed": "5", "keep_image": "true"})
    assert second.status_code == 200, second.text
    sent = ask(client, options={"fidelity": "1", "seed": "5"}).json()
    assert picture(client, second.json()) == picture(client, sent) != picture(client, first)
    third = again(client, second.json()["id"], {"fidelity": "0", "seed": "5"}).json()
    assert picture(client, third) == picture(client, first)


def test_a_photo_that_was_not_to_be_kept_has_to_be_sent_again(client):
    plain = ask(client).json()["id"]
    deleted = ask(client, options=KEEP).json()["id"]
    assert client.delete(f"/v1/restorations/{deleted}").status_code == 204
    for job_id in (plain, deleted, "never-there"):
        told = problem(again(client, job_id), 404, "upload_gone")
        assert "send the photo again" in told["hint"]


def test_a_repetition_means_its_job_when_the_photo_is_gone(client):
    job_id = ask(client, options=KEEP).json()["id"]
    key = {"Idempotency-Key": "again"}
    first = again(client, job_id, **key)
    assert client.delete(f"/v1/restorations/{job_id}").status_code == 204
    repeated = again(client, job_id, **key)
    assert (first.status_code, repeated.status_code) == (200, 200)
    assert repeated.headers["idempotent-replayed"] == "true"
    assert repeated.json() == first.json()
    problem(again(client, job_id, {"fidelity": "1"}, **key), 422, "idempotency_conflict")
    problem(again(client, "never-there", **key), 422, "idempotency_conflict")
    problem(again(client, job_id, **{"Idempotency-Key": "another"}), 404, "upload_gone")


def test_a_photo_is_kept_when_its_restoration_fails(client):
    failed = ask(client, options={**KEEP, "det_threshold": "1"})
    problem(failed, 422, "no_face_found")
    job_id = failed.headers["location"].rsplit("/", 1)[-1]
    assert again(client, job_id).status_code == 200


def test_a_request_has_either_the_photo_or_where_it_is(client):
    job_id = ask(client, options=KEEP).json()["id"]
    problem(ask(client, options={"image_from": job_id}), 400, "malformed_request")
    told = problem(again(client, ""), 400, "malformed_request")
    assert told["detail"].startswith("there is no file field 'image'")
    direct = client.post("/restore", files={"image": PNG}, data={"image_from": job_id})
    problem(direct, 422, "invalid_option")


def test_what_is_no_yes_and_no_no_is_refused(client):
    assert problem(ask(client, options={"keep_image": "perhaps"}), 422, "invalid_option")["option"] == "keep_image"


def test_a_repetition_is_one_with_the_same_wishes_only(client):
    first = ask(client, options=KEEP, Idempotency_Key="kept").json()["id"]
    assert ask(client, options=KEEP, Idempotency_Key="kept").json()["id"] == first
    problem(ask(client, options={"seed": "5"}, Idempotency_Key="kept"), 422, "idempotency_conflict")


def test_nobody_restores_the_photo_of_another(tmp_path):
    keys = tmp_path / "keys.json"
    mine, theirs = (bearer(add_key(keys, name)) for name in ("shop", "rival"))
    with fake_service(api_keys_file=keys) as (client, _):
        job_id = ask(client, options=KEEP, **mine).json()["id"]
        foreign, unknown = again(client, job_id, **theirs), again(client, "never-there", **theirs)
        same = ("title", "detail", "hint", "code", "status")
        assert [foreign.json()[name] for name in same] == [unknown.json()[name] for name in same]
        problem(foreign, 404, "upload_gone")
        assert again(client, job_id, **mine).status_code == 200
