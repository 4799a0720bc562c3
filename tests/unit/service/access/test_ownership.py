"""Ids: random, bound to their owners, and good for nobody else."""

import inspect
import re

import pytest

from service.access.ownership import OwnedJobs, belongs_to, new_job_id, scoped
from service.core.errors import NotFound, UploadGone
from service.core.jobs import Idempotency
from tests.job_queues import memory, photo


def test_ids_are_drawn_anew_from_144_random_bits():
    ids = {new_job_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{24}", drawn) for drawn in ids)  # 6 bits each


def test_an_id_is_its_owner_s_alone():
    owners = ["shop", "Shop", "shop2", "s", "hop", ""]
    ids = {owner: new_job_id(owner) for owner in owners}
    for owner, job_id in ids.items():
        assert [other for other in owners if belongs_to(job_id, other)] == [owner]


def test_an_id_does_not_say_whose_it_is():
    assert "shop" not in new_job_id("shop")
    assert new_job_id("shop")[24:] != new_job_id("shop")[24:]


def test_no_part_of_an_id_makes_another_one():
    job_id = new_job_id("shop")
    for tried in (
        job_id[:24],
        job_id[:-1],
        job_id + "A",
        job_id[24:] + job_id[:24],
        job_id.swapcase(),
        "",
        "ü" * 40,
        "\ud800" * 40,
    ):
        assert not belongs_to(tried, "shop")
    assert not belongs_to(job_id, "")


def test_ids_of_nobody_are_everybody_s_who_is_nobody():
    assert belongs_to(new_job_id(), "")
    assert not belongs_to(new_job_id(), "shop")


def test_scoped_keys_of_two_owners_never_meet():
    pairs = [("", "a"), ("a", "b"), ("a", "ab"), ("aa", "b"), ("", "aab"), ("a.b", "c"), ("a", "b.c")]
    assert len({scoped(key, owner) for owner, key in pairs}) == len(pairs)
    assert Idempotency(scoped("k", ""), "f").key == "k"


async def asked(jobs, call, job_id):
    answer = getattr(jobs, call)(job_id)
    return await answer if inspect.isawaitable(answer) else answer


@pytest.mark.parametrize("call", ["status", "result", "upload", "watch", "previews", "cancel", "delete"])
@pytest.mark.parametrize("stranger", ["other", ""])
async def test_to_others_a_job_is_unknown_whatever_they_ask_of_it(call, stranger):
    job_id = new_job_id("shop")
    async with memory() as jobs:
        await jobs.admit(photo(job_id, keep_upload=True))
        with pytest.raises(UploadGone if call == "upload" else NotFound):
            await asked(OwnedJobs(jobs, stranger), call, job_id)
        assert (await OwnedJobs(jobs, "shop").status(job_id)).job_id == job_id
