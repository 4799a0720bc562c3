"""The files of the page, as browsers get them."""

import re

import pytest

from service.api.documents import _PAGE
from tests.serving import fake_service


@pytest.fixture(scope="module")
def client():
    with fake_service() as (client, _):
        yield client


@pytest.mark.parametrize("path", ["/", *(f"/page/{file.name}" for file in sorted(_PAGE.iterdir()))])
def test_each_is_asked_for_again_and_answered_shortly(client, path):
    answer = client.get(path)
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    kinds = {".js": r"(text|application)/javascript", ".css": "text/css"}
    ending = path[path.rfind(".") :] if "." in path else ""
    assert re.match(kinds.get(ending, "text/html"), answer.headers["content-type"])
    if path != "/":
        again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_the_page_asks_nobody_else_and_runs_nothing_of_its_own_text(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    for file in _PAGE.iterdir():
        text = file.read_text()
        assert not re.search(r"(?<!\w)on\w+=\"|style=\"|javascript:", text), file.name
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}, file.name
