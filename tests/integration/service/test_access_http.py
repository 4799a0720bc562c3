"""Keys over HTTP: who comes in, whose jobs are whose, and what a stranger learns, which is nothing."""

import re
import socket

import pytest

from tests.api_keys import add_key, bearer, drop_key
from tests.job_client import PNG, ask, events_of, problem
from tests.processes import until as wait_until
from tests.serving import fake_service

FOR_EVERYBODY = {
    "/livez",
    "/readyz",
    "/v2/health/live",
    "/v2/health/ready",
    "/metrics",
    "/problems/{code}",
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def mine(keys):
    return add_key(keys, "shop")


@pytest.fixture(scope="module")
def theirs(keys):
    return add_key(keys, "rival")


@pytest.fixture(scope="module")
def client(keys, mine, theirs):
    with fake_service(api_keys_file=keys) as (client, _):
        yield client


@pytest.fixture(scope="module")
def finished(client, mine):
    """Where a job of mine is that has succeeded."""
    where = ask(client, **bearer(mine)).headers["location"]
    assert client.get(where, headers=bearer(mine)).json()["status"] == "succeeded"
    return where


def operations(client):
    document = client.get("/openapi.json").json()
    return [(path, method) for path, methods in document["paths"].items() for method in methods]


def test_whatever_is_documented_asks_for_a_key_but_health_metrics_and_explanations(client):
    asked, open_to_all = set(), set()
    for path, method in operations(client):
        status = client.request(method, re.sub(r"\{\w+\}", "not_found", path)).status_code
        (asked if status == 401 else open_to_all).add(path)
    assert open_to_all == FOR_EVERYBODY
    assert {"/restore", "/v1/restorations", "/v1/restorations/{restoration_id}/events", "/v1/limits"} <= asked


def test_the_document_says_which_operations_ask_for_a_key(client):
    document = client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme.get("scheme"), scheme.get("name")) for scheme in schemes.values()} == {
        ("http", "bearer", None),
        ("apiKey", None, "X-API-Key"),
    }
    for path, method in operations(client):
        told = document["paths"][path][method].get("security", [])
        assert [list(choice) for choice in told] == ([] if path in FOR_EVERYBODY else [["bearer"], ["header"]]), path
        assert ("401" in document["paths"][path][method]["responses"]) == (path not in FOR_EVERYBODY), path


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/page/page.js", "/swagger/swagger-ui.css", "/livez"])
def test_the_page_and_the_documentation_are_for_everybody(client, path):
    assert client.get(path).status_code == 200


def test_a_key_may_come_in_either_header(client, mine):
    for headers in (
        {"Authorization": f"Bearer {mine}"},
        {"authorization": f"bEaReR   {mine}"},
        {"X-API-Key": mine},
        {"X-API-Key": mine, "Authorization": "Bearer of-a-proxy"},
    ):
        assert client.get("/v1/limits", headers=headers).status_code == 200, headers


def test_what_is_no_known_key_is_refused(client, mine):
    nearly = [
        mine[:-1],
        mine + "A",
        mine[:-1] + ("A" if mine[-1] != "A" else "B"),
        mine.replace("lpmrf_", "lpmrf-"),
        mine.swapcase(),
        mine[:15],
        mine[15:],
        f"{mine} {mine}",
        f'"{mine}"',
        "",
        "x" * 100_0,
        "schlüssel",
    ]
    for key in nearly:
        told = problem(client.get("/v1/limits", headers={"X-API-Key": key.encode()}), 401, "unauthenticated")
        assert not told["retryable"]
    for scheme in ("Basic", "Digest", "", "Bearer,Bearer"):
        problem(client.get("/v1/limits", headers={"Authorization": f"{scheme} {mine}".strip()}), 401, "unauthenticated")


def test_several_keys_are_no_key(client, mine, theirs):
    for name in ("X-API-Key", "Authorization"):
        value = "{}" if name == "X-API-Key" else "Bearer {}"
        headers = [(name, value.format(mine)), (name, value.format(theirs))]
        problem(client.get("/v1/limits", headers=headers), 401, "unauthenticated")


def test_a_refusal_says_how_to_show_a_key(client):
    refused = client.get("/v1/limits")
    assert refused.headers["www-authenticate"].startswith("Bearer ")
    assert "X-API-Key" in refused.json()["hint"]


def test_a_key_in_the_address_is_refused_even_beside_one_that_is_good(client, mine):
    for query in (f"api_key={mine}", f"key={mine}", f"access_token={mine}", f"{mine}"):
        refused = client.get(f"/v1/limits?{query}", headers=bearer(mine))
        assert mine not in refused.text
        problem(refused, 401, "unauthenticated")


def test_a_key_in_a_cookie_or_a_form_is_none(client, mine):
    problem(
        client.get("/v1/limits", headers={"Cookie": f"X-API-Key={mine}; Authorization={mine}"}), 401, "unauthenticated"
    )
    form = {"api_key": mine}
    problem(client.post("/restore", files={"image": PNG}, data=form), 401, "unauthenticated")


def test_a_stranger_s_photo_is_refused_before_it_is_read(client):
    head = b"POST /restore HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as connection:
        connection.sendall(head + b"Content-Length: 1000000\r\n\r\n--x\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_photos_are_restored_for_who_has_a_key(client, mine):
    restored = client.post("/restore", files={"image": PNG}, headers=bearer(mine))
    assert restored.status_code == 200
    assert client.get(restored.headers["location"], headers=bearer(mine)).status_code == 200


def test_a_job_is_its_owner_s_alone(client, finished, mine, theirs):
    unknown = finished[:-6] + "AAAAAA"
    for method, part in (("GET", ""), ("GET", "/result"), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")):
        foreign = client.request(method, finished + part, headers=bearer(theirs))
        absent = client.request(method, unknown + part, headers=bearer(theirs))
        told = [{**problem(answer, 404, "not_found"), "instance": "", "request_id": ""} for answer in (foreign, absent)]
        assert told[0] == told[1]
        names = [sorted(set(answer.headers) - {"date", "x-request-id"}) for answer in (foreign, absent)]
        assert names[0] == names[1]
    assert client.get(finished, headers=bearer(mine)).json()["status"] == "succeeded"
    assert client.get(f"{finished}/result", headers=bearer(mine)).status_code == 200
    assert [name for name, _, _ in events_of(client, finished, **bearer(mine))] == ["end"]


def test_what_was_answered_at_once_is_its_owner_s_alone_too(client, mine, theirs):
    where = client.post("/restore", files={"image": PNG}, headers=bearer(mine)).headers["location"]
    problem(client.get(where, headers=bearer(theirs)), 404, "not_found")
    problem(client.get(f"{where}/result", headers=bearer(theirs)), 404, "not_found")


def test_another_key_of_the_same_owner_reaches_his_jobs(client, keys, finished):
    second = add_key(keys, "shop")
    wait_until(lambda: client.get(finished, headers=bearer(second)).status_code == 200)


def test_an_owner_withdraws_and_forgets_his_jobs(client, mine):
    where = ask(client, Prefer="respond-async", **bearer(mine)).headers["location"]
    assert client.post(f"{where}/cancel", headers=bearer(mine)).status_code == 200
    assert client.delete(where, headers=bearer(mine)).status_code == 204
    problem(client.get(where, headers=bearer(mine)), 404, "not_found")


def test_idempotency_keys_of_two_owners_are_two_keys(client, mine, theirs):
    ours = ask(client, Idempotency_Key="order-7", **bearer(mine))
    others = ask(client, Idempotency_Key="order-7", **bearer(theirs))
    again = ask(client, Idempotency_Key="order-7", **bearer(mine))
    assert ours.headers["location"] != others.headers["location"]
    assert "idempotent-replayed" not in others.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == ours.headers["location"]


def test_an_id_tells_nobody_anything_but_its_owner(client, finished, theirs):
    """Whatever part of an id a stranger changes, it is never one of his."""
    name = finished.rpartition("/")[2]
    tries = [name[:24], name[24:], name[:24] * 2, name[::-1], name + "A", "ü" * 24 + name[24:], "%00" * 40, "a" * 3000]
    for tried in tries:
        problem(client.get(f"/v1/restorations/{tried}", headers=bearer(theirs)), 404, "not_found")


def test_a_key_that_is_revoked_stops_and_a_new_one_begins_without_a_restart(client, keys):
    leaving = add_key(keys, "leaving")
    wait_until(lambda: client.get("/v1/limits", headers=bearer(leaving)).status_code == 200)
    drop_key(keys, leaving)
    wait_until(lambda: client.get("/v1/limits", headers=bearer(leaving)).status_code == 401)


def test_a_job_outlives_the_key_it_was_made_with(client, keys, mine):
    leaving = add_key(keys, "shop")
    wait_until(lambda: client.get("/v1/limits", headers=bearer(leaving)).status_code == 200)
    where = ask(client, **bearer(leaving)).headers["location"]
    drop_key(keys, leaving)
    wait_until(lambda: client.get(where, headers=bearer(leaving)).status_code == 401)
    assert client.get(where, headers=bearer(mine)).status_code == 200


def test_refusals_are_counted(client):
    def counted():
        found = re.search(r'^restore_rejected_total\{.*"unauthenticated".*\} (\S+)$', client.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    before = counted()
    client.get("/v1/limits")
    assert counted() == before + 1


def test_without_a_keys_file_the_service_is_open():
    with fake_service() as (client, _):
        assert client.get("/v1/limits").status_code == 200
        assert client.get(ask(client).headers["location"]).status_code == 200
