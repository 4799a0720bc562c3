"""What browsers are told with every answer, and which pages may read it."""

import pytest

from service.core.errors import ServiceError
from tests.api_keys import add_key, bearer
from tests.fakes import EchoBroker, FakeDetector
from tests.job_client import ASYNC, PNG, ask
from tests.serving import fake_service

SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
APP = "https://app.example"


class DefectiveDetector(FakeDetector):
    async def detect(self, pixels, **_options):
        raise ZeroDivisionError("a defect of ours")


@pytest.fixture(scope="module")
def client():
    with fake_service() as (client, _):
        yield client


def answers(client):
    """One answer of every kind, by name."""
    job = ask(client, **ASYNC).headers["location"]
    finished = ask(client).headers["location"]
    upload = {"image": PNG}
    return {
        "page": client.get("/"),
        "docs": client.get("/docs"),
        "script": client.get("/page/page.js"),
        "openapi": client.get("/openapi.json"),
        "limits": client.get("/v1/limits"),
        "metrics": client.get("/metrics"),
        "health": client.get("/livez"),
        "photo": client.post("/restore", files=upload),
        "report at once": client.post("/restore", files=upload, headers={"Accept": "application/json"}),
        "job": client.get(job),
        "report": client.get(finished),
        "result": client.get(f"{finished}/result"),
        "events": client.get(f"{finished}/events"),
        "no more events": client.get(f"{finished}/events", headers={"Last-Event-ID": "end"}),
        "cancelled": client.post(f"{job}/cancel"),
        "deleted": client.delete(job),
        "bad photo": client.post("/restore", files={"image": b"?"}),
        "unknown": client.get("/nowhere"),
        "unknown file": client.get("/page/nowhere.js"),
        "wrong method": client.put("/restore"),
        "options": client.options("/restore"),
    }


def test_every_answer_keeps_browsers_out_of_trouble(client):
    for name, answer in answers(client).items():
        assert SAFE.items() <= answer.headers.items(), name
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, name
        assert "frame-ancestors 'none'" in policy, name
        assert "unsafe-eval" not in policy, name
        assert "script-src 'unsafe-inline'" not in policy, name


def test_only_the_page_s_own_files_are_kept_by_anybody(client):
    for name, answer in answers(client).items():
        is_file = name in ("page", "docs", "script")
        assert ("no-store" in answer.headers.get("cache-control", "")) == (not is_file), name


def test_an_answer_to_a_defect_is_as_safe():
    with fake_service(detector=DefectiveDetector()) as (client, _):
        failed = client.post("/restore", files={"image": PNG})
    assert failed.status_code == 500
    assert "ZeroDivision" not in failed.text
    assert SAFE.items() <= failed.headers.items()
    assert failed.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in failed.headers["content-security-policy"]


def test_a_refusal_for_want_of_a_key_is_as_safe(tmp_path):
    add_key(tmp_path / "keys.json")
    with fake_service(api_keys_file=tmp_path / "keys.json") as (client, _):
        refused = client.get("/v1/limits")
    assert SAFE.items() <= refused.headers.items()
    assert refused.headers["cache-control"] == "no-store"


def test_nobody_is_led_to_where_a_host_header_says(client):
    for path in ("/v1/limits/", "/restore/", "/metrics/", "/page", "/v1/restorations/?api_key=lpmrf_"):
        answer = client.get(path, headers={"Host": "elsewhere.example"})
        assert answer.status_code in (401, 404), path
        assert "location" not in answer.headers, path


def cross_origin(answer):
    return {name for name in answer.headers if name.startswith("access-control-")}


def preflight(client, origin, method="POST", headers="authorization,content-type,prefer,idempotency-key,x-api-key"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return client.options("/v1/restorations", headers=asked)


def test_no_other_page_may_read_answers_unless_the_operator_says_so(client):
    assert cross_origin(client.get("/v1/limits", headers={"Origin": APP})) == set()
    refused = preflight(client, APP)
    assert refused.status_code == 405
    assert cross_origin(refused) == set()


@pytest.fixture
def shared(tmp_path):
    """A service that asks for keys and lets the pages of two origins in; and a key."""
    key = add_key(tmp_path / "keys.json")
    origins = f"{APP}, http://localhost:3000"
    with fake_service(api_keys_file=tmp_path / "keys.json", cors_origins=origins) as (client, _):
        yield client, key


def test_pages_of_the_operator_s_origins_may(shared):
    client, key = shared
    for origin in (APP, "http://localhost:3000"):
        allowed = preflight(client, origin)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        answer = client.post("/restore", files={"image": PNG}, headers={"Origin": origin, **bearer(key)})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert {"location", "retry-after"} <= set(answer.headers["access-control-expose-headers"].lower().split(", "))
        assert {"Accept", "Origin"} <= set(answer.headers["vary"].split(", "))


def test_they_can_read_that_a_key_is_needed(shared):
    client, _ = shared
    refused = client.get("/v1/limits", headers={"Origin": APP})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP)


def test_they_may_ask_for_what_is_asked_of_each_path(shared):
    client, _ = shared
    for method in ("GET", "HEAD", "POST", "DELETE"):
        assert preflight(client, APP, method).status_code == 200, method
    assert preflight(client, APP, "PUT").status_code == 400


@pytest.mark.parametrize(("origins", "told"), [(APP, APP), ("*", "*")])
def test_they_can_read_that_the_service_failed(origins, told):
    with fake_service(detector=DefectiveDetector(), cors_origins=origins) as (client, _):
        failed = client.post("/restore", files={"image": PNG}, headers={"Origin": APP, "Connection": "close"})
        assert (failed.status_code, failed.json()["code"]) == (500, "internal")
        assert failed.headers["access-control-allow-origin"] == told
        assert "x-request-id" in failed.headers["access-control-expose-headers"].lower()
        assert SAFE.items() <= failed.headers.items()
        others = client.post("/restore", files={"image": PNG}, headers={"Origin": "https://evil.example"})
        assert others.headers.get("access-control-allow-origin") == (told if told == "*" else None)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", f"{APP}.evil.example", "https://evil-app.example", "null", APP.upper(), f"{APP}:8443"],
)
def test_pages_of_others_may_not(shared, origin):
    client, key = shared
    assert preflight(client, origin).status_code == 400
    answer = client.get("/v1/limits", headers={"Origin": origin, **bearer(key)})
    assert "access-control-allow-origin" not in answer.headers


def test_browsers_are_never_asked_to_add_credentials_of_their_own(shared):
    client, key = shared
    for answer in (preflight(client, APP), client.get("/v1/limits", headers={"Origin": APP, **bearer(key)})):
        assert "access-control-allow-credentials" not in answer.headers
        assert "set-cookie" not in answer.headers


def test_methods_that_do_not_exist_are_not_allowed(shared):
    client, _ = shared
    assert preflight(client, APP, method="PATCH").status_code == 400


def test_all_origins_are_let_in_by_a_star():
    with fake_service(cors_origins="*") as (client, _):
        answer = client.get("/v1/limits", headers={"Origin": "https://anywhere.example"})
    assert answer.headers["access-control-allow-origin"] == "*"


def test_service_errors_are_problem_documents_whatever_they_are():
    with fake_service(broker=EchoBroker(error=ServiceError("it broke"))) as (client, _):
        assert SAFE.items() <= client.post("/restore", files={"image": PNG}).headers.items()
