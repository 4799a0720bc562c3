"""What every queue of photos promises about photos that are kept to be restored again."""

import asyncio

import pytest

from service.core.errors import Cancelled, NoFaceFound, UploadGone
from service.core.types import Upload
from tests.job_queues import LONG_S, photo, result_of

KEPT = Upload(b"bytes of a")


async def test_a_photo_that_is_to_be_kept_is_there_from_admission_to_expiry(queue):
    await queue.admit(photo("a", keep_upload=True))
    assert await queue.upload("a") == KEPT
    await queue.take(LONG_S)
    assert await queue.upload("a") == KEPT
    await queue.finish(result_of("a"))
    assert await queue.upload("a") == KEPT
    assert (await queue.result("a")).restoration == result_of("a")


async def test_it_is_kept_however_the_job_ends(queue):
    for job_id in "ab":
        await queue.admit(photo(job_id, keep_upload=True))
    await queue.take(LONG_S)
    await queue.fail("a", NoFaceFound("the detector saw none"))
    await queue.cancel("b")
    with pytest.raises(Cancelled):
        await queue.result("b")
    assert [(await queue.upload(job_id)).data for job_id in "ab"] == [b"bytes of a", b"bytes of b"]


async def test_a_photo_that_is_not_to_be_kept_is_never_handed_out(queue):
    await queue.admit(photo("a"))
    for step in (queue.take(LONG_S), queue.finish(result_of("a"))):
        with pytest.raises(UploadGone):
            await queue.upload("a")
        await step
    with pytest.raises(UploadGone):
        await queue.upload("a")
    with pytest.raises(UploadGone):
        await queue.upload("nobody's")


@pytest.mark.parametrize("ended", [False, True])
async def test_what_is_deleted_is_gone_with_its_photo(queue, ended):
    await queue.admit(photo("a", keep_upload=True))
    if ended:
        await queue.take(LONG_S)
        await queue.finish(result_of("a"))
    await queue.delete("a")
    with pytest.raises(UploadGone):
        await queue.upload("a")


async def test_a_photo_goes_when_its_job_is_forgotten(make_queue):
    async with make_queue(result_ttl_s=0.05) as queue:
        await queue.admit(photo("a", keep_upload=True))
        await queue.take(LONG_S)
        await queue.finish(result_of("a"))
        await asyncio.sleep(0.2)
        with pytest.raises(UploadGone):
            await queue.upload("a")
