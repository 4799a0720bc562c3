"""What the page says it has deleted or cancelled: nothing of it is left, or the visitor is told."""

import asyncio
import threading

import pytest

from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.core.metrics import Metrics
from service.core.settings import Settings
from tests.browser.visitor import FAKES, Page
from tests.fakes import HeldBroker
from tests.serving import fake_service

pytestmark = pytest.mark.browser

_BUSY = {"status": 503, "code": "dependency_unavailable", "title": "A dependency is unavailable", "retry_after_s": 0.2}
_LIMITED = {"status": 429, "code": "rate_limited", "title": "Too many requests", "retry_after_s": 0.2}
_BROKEN = {"status": 500, "code": "internal", "title": "Internal error"}
_SILENT = {"status": 0}


class SeenJobs(MemoryJobQueue):
    """Remembers which jobs there were, and holds the answer to a photo back while the test wants that."""

    def __init__(self):
        super().__init__(JobLimits.of(Settings()), metrics=Metrics())
        self.ids = []
        self.admitted = threading.Semaphore(0)
        self.answers = threading.Event()
        self.answers.set()

    async def admit(self, job, idempotency=None):
        admitted = await super().admit(job, idempotency)
        self.ids.append(admitted.job_id)
        self.admitted.release()
        for _ in range(3000):
            if self.answers.is_set():
                break
            await asyncio.sleep(0.01)
        return admitted


@pytest.fixture
def jobs():
    return SeenJobs()


@pytest.fixture
def client(jobs):
    with fake_service(jobs=jobs, **FAKES) as (client, _):
        yield client


def kept(client, jobs):
    return [job for job in jobs.ids if client.get(f"/v1/restorations/{job}").status_code != 404]


def is_deleted(page):
    return "deleted from the service" in page["status"].text


@pytest.mark.parametrize("refusals", [[_BUSY, _BUSY], [_LIMITED] * 6, [_SILENT, _BUSY]])
def test_a_deletion_that_is_refused_for_a_while_is_tried_again(page, client, jobs, photo, refusals):
    page.choose(photo)
    page.settled()
    page.refuse("DELETE", "", *refusals)
    page["forget"].click()
    page.until(lambda: is_deleted(page))
    assert kept(client, jobs) == []
    assert page["empty"].is_displayed()
    assert page.focus() == "image"


@pytest.mark.parametrize("refusals", [[_BROKEN], [_BUSY] * 5])
def test_a_photo_that_cannot_be_deleted_stays_and_can_be_deleted_again(page, client, jobs, photo, refusals):
    page.choose(photo)
    page.settled()
    page.refuse("DELETE", "", *refusals)
    page["forget"].click()
    page.until(lambda: page["problem"].is_displayed())
    assert page.focus() == "viewer"
    assert page["status"].text == "astronaut.jpg: The photo could not be deleted."
    assert page["problem-detail"].text == f"{refusals[0]['title']}."
    assert len(kept(client, jobs)) == 1
    assert not page["retry"].is_displayed()
    page["forget"].click()
    page.until(lambda: is_deleted(page))
    assert kept(client, jobs) == []


def test_what_is_gone_already_is_deleted(page, client, jobs, photo):
    page.choose(photo)
    page.settled()
    client.delete(f"/v1/restorations/{jobs.ids[0]}")
    page["forget"].click()
    page.until(lambda: is_deleted(page))


def test_whoever_looks_at_another_photo_meanwhile_stays_there(page, photo, wall):
    page.choose(wall, photo)
    page.settled()
    page.refuse("DELETE", "", _BUSY | {"retry_after_s": 3})
    page["forget"].click()
    assert page.stages()[0] == "deleting"
    assert "trying again in 3 s" in page["stage"].text or page["stage"].text == "Deleting"
    assert not page["cancel"].is_displayed()
    page.all("#photos button")[1].click()
    page.until(lambda: is_deleted(page))
    assert page["name"].text == "astronaut.jpg"
    assert page.stages() == ["done"]
    assert page.run("return document.activeElement === document.querySelector('#photos button')")


def test_copies_of_earlier_runs_are_deleted_with_the_photo(page, client, jobs, photo):
    page.choose(photo)
    page.settled()
    page.refuse("DELETE", "", _BROKEN)
    page.change("num_steps", 9)
    page.until(lambda: "9 steps" in page["facts"].text)
    assert len(kept(client, jobs)) == 2
    page["forget"].click()
    page.until(lambda: is_deleted(page))
    assert kept(client, jobs) == []


def test_copies_of_earlier_runs_are_deleted_by_the_next_one(page, client, jobs, photo):
    page.choose(photo)
    page.settled()
    for steps, refusals in ((9, [_BROKEN]), (5, [])):
        page.refuse("DELETE", "", *refusals)
        page.change("num_steps", steps)
        page.until(lambda steps=steps: f"{steps} steps" in page["facts"].text)
    page.until(lambda: kept(client, jobs) == jobs.ids[-1:])


@pytest.fixture
def held_answer(driver, jobs, photo):
    """A photo whose job the service has and the page does not know of yet."""
    broker = HeldBroker()
    jobs.answers.clear()
    with fake_service(jobs=jobs, broker=broker, **FAKES) as (client, _):
        page = Page(driver, client.base_url).ready()
        page.choose(photo)
        assert jobs.admitted.acquire(timeout=30)
        yield page, client
        broker.go.set()
        jobs.answers.set()


def test_a_photo_that_is_cancelled_before_its_answer_is_cancelled_at_the_service(held_answer, jobs):
    page, client = held_answer
    page["cancel"].click()
    page.until(lambda: page.stages() == ["cancelled"])
    assert "cancelled" not in page["status"].text
    jobs.answers.set()
    page.until(lambda: page["status"].text == "astronaut.jpg: cancelled.")
    assert client.get(f"/v1/restorations/{jobs.ids[0]}").json()["status"] == "cancelled"


def test_a_photo_that_is_deleted_before_its_answer_is_deleted_at_the_service(held_answer, jobs):
    page, client = held_answer
    page["cancel"].click()
    page["forget"].click()
    page.until(lambda: page.stages() in (["deleting"], []))
    assert not is_deleted(page)
    jobs.answers.set()
    page.until(lambda: is_deleted(page))
    assert kept(client, jobs) == []


def test_a_photo_whose_answer_is_lost_is_one_job(page, client, jobs, photo):
    page.refuse("POST", "/v1/restorations", {"status": 0, "arrives": True}, {"status": 0})
    page.choose(photo)
    page.settled()
    assert page.stages() == ["done"]
    assert len(set(jobs.ids)) == 1
    page["forget"].click()
    page.until(lambda: is_deleted(page))
    assert kept(client, jobs) == []


def test_a_photo_that_is_cancelled_while_its_answer_is_lost_is_cancelled_at_the_service(held_answer, jobs, photo):
    page, client = held_answer
    page.refuse("POST", "/v1/restorations", {"status": 0, "arrives": True})
    jobs.answers.set()
    page.choose(photo)
    page.until(lambda: len(jobs.ids) == 2)
    page["cancel"].click()
    page.until(lambda: page["status"].text == "astronaut.jpg: cancelled.")
    assert client.get(f"/v1/restorations/{jobs.ids[1]}").json()["status"] == "cancelled"


def test_a_photo_with_other_options_before_its_answer_is_sent_once_and_kept_once(held_answer, jobs, photo):
    page, client = held_answer
    page.run(
        """
        window.begun = false;
        const entry = document.querySelector("#photos li");
        new MutationObserver(() => (window.begun = true)).observe(entry, { attributeFilter: ["data-stage"] });
        """
    )
    page.change("num_steps", 9)
    page.until(lambda: page.run("return window.begun"))
    assert page.stages() == ["sending"]
    jobs.answers.set()
    page.until(lambda: len(jobs.ids) == 2)
    page.until(lambda: kept(client, jobs) == jobs.ids[1:])
    assert [size > photo.stat().st_size for size in page.sent_bytes()] == [True, False]


@pytest.mark.parametrize("refusals", [[_BUSY, _LIMITED], [_SILENT]])
def test_a_cancellation_that_is_refused_for_a_while_is_tried_again(driver, photo, refusals):
    broker = HeldBroker()
    with fake_service(broker=broker, **FAKES) as (client, _):
        page = Page(driver, client.base_url).ready()
        page.choose(photo)
        page.until(lambda: page.stages() == ["running"])
        page.refuse("POST", "/cancel", *refusals)
        page["cancel"].click()
        assert broker.dropped.wait(timeout=30)
        page.until(lambda: page["status"].text == "astronaut.jpg: cancelled.")
        assert page.all("#photos small")[0].text == "Cancelled"
        broker.go.set()


def test_a_cancellation_that_fails_is_told(driver, photo):
    broker = HeldBroker()
    with fake_service(broker=broker, **FAKES) as (client, _):
        page = Page(driver, client.base_url).ready()
        page.choose(photo)
        page.until(lambda: page.stages() == ["running"])
        page.refuse("POST", "/cancel", _BROKEN)
        page["cancel"].click()
        page.until(lambda: page.stages() == ["failed"])
        assert page["problem-title"].text == "The restoration could not be cancelled"
        page["forget"].click()
        page.until(lambda: is_deleted(page))
        assert broker.dropped.wait(timeout=30)
        broker.go.set()
