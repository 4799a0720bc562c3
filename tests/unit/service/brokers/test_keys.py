import re
from pathlib import Path

import pytest

from service.brokers import keys
from service.brokers.keys import QueueKeys
from service.brokers.redis_connection import load_script
from service.core.settings import Settings
from service.core.types import Lane

SCRIPTS = Path(keys.__file__).parent / "scripts"


@pytest.fixture
def faces():
    return QueueKeys(Settings().redis_prefix, "faces")


def test_every_name_lies_in_one_slot_of_a_cluster(faces):
    names = [*faces.for_scripts(), faces.payload("a}b{c", 1), faces.news("{x}")]
    assert {re.search(r"\{(.*?)\}", name)[1] for name in names} == {"latent-pmrf"}


def test_names_are_distinct_and_of_one_queue_only(faces):
    photos = QueueKeys(Settings().redis_prefix, "photos")
    names = [*faces.for_scripts(), *photos.for_scripts()]
    assert len(set(names)) == len(names)


def test_a_name_of_a_job_is_what_scripts_build(faces):
    given = faces.for_scripts()
    for name, tail in (
        (faces.job("id"), "id"),
        (faces.next("id"), "id"),
        (faces.payload("id", 3), "id:3"),
        (faces.result("id", 3), "id:3"),
        (faces.news("id"), "id"),
        (faces.notice("id"), "id"),
        (faces.idempotency("digest"), "digest"),
        (faces.holders("jobs"), "jobs"),
        (faces.held("jobs", "owner"), "jobs:owner"),
    ):
        assert name.removesuffix(tail) in given
    assert faces.stream(Lane.BATCH) in given


def test_the_scripts_unpack_as_many_names_as_they_get(faces):
    text = (SCRIPTS / "lanes.lua").read_text()
    taken = sorted(int(number) for number in re.findall(r"KEYS\[(\d+)\]", text))
    assert taken == list(range(1, len(faces.for_scripts()) + 1))


def test_what_callers_choose_is_no_part_of_a_name():
    assert re.fullmatch("[0-9a-f]{64}", QueueKeys.digest("any:thing {at} all\n"))


def test_no_script_builds_a_name_of_its_own_or_trims_a_stream():
    for script in SCRIPTS.glob("*.lua"):
        text = script.read_text()
        assert "latent-pmrf" not in text
        assert "MAXLEN" not in text
        assert "MINID" not in text


def test_a_process_keeps_the_scripts_of_its_release_when_another_is_installed(monkeypatch):
    load_script.cache_clear()
    load_script("view")
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_named: "of another release")
    assert "of another release" not in load_script("cancel").text
