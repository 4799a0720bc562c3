"""What the page waits out, what it says meanwhile, and what the visitor does meanwhile."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.api_keys import add_key
from tests.browser.visitor import FAKES, Page
from tests.fakes import HeldBroker
from tests.serving import fake_service

pytestmark = pytest.mark.browser

_FULL = {"status": 429, "code": "queue_full", "title": "The queue is full", "retry_after_s": 0.8}
_LIMITED = {"status": 429, "code": "rate_limited", "title": "Too many requests", "retry_after_s": 0.8}
_QUOTA = {"status": 429, "code": "quota_exceeded", "title": "The quota is spent", "retry_after_s": 0.3}
_CORRUPT = {"status": 422, "code": "corrupt_image", "title": "The image cannot be decoded"}
_HOLD = """
    const [ending] = arguments;
    const before = window.fetch;
    const go = new Promise((resolve) => (window.letGo = resolve));
    window.fetch = async (path, init) => {
      if (path.endsWith(ending)) await go;
      return before(path, init);
    };
"""


@pytest.fixture(scope="module")
def client():
    with fake_service(**FAKES) as (client, _):
        yield client


@pytest.fixture
def held(driver):
    """A page whose photos end when the broker lets them go."""
    broker = HeldBroker()
    with fake_service(broker=broker, **FAKES) as (client, _):
        yield Page(driver, client.base_url).ready(), broker
        broker.go.set()


def said(page):
    """What stands beside the first photo."""
    return page.all("#photos small")[0].text


def test_a_key_that_may_not_ask_often_still_gets_its_pictures(driver, photo, tmp_path):
    keys = tmp_path / "keys.json"
    key = add_key(keys, requests_per_s=2, burst=1)
    with fake_service(api_keys_file=keys, **FAKES) as (client, _):
        page = Page(driver, client.base_url)
        page.until(lambda: page["ask"].is_displayed())
        page["key"].send_keys(key, Keys.ENTER)
        page.ready().choose(photo, photo)
        page.settled()
        assert page.stages() == ["done", "done"]
        page.change("num_steps", 9)
        page.until(lambda: "9 steps" in page["facts"].text)
        for _ in range(2):
            page.until(lambda: page["forget"].is_displayed())
            page["forget"].click()
        page.until(lambda: page["empty"].is_displayed())
        page.run("sessionStorage.clear()")


@pytest.mark.parametrize(
    ("method", "ending", "refusal"),
    [("POST", "s", _FULL), ("POST", "s", _LIMITED), ("GET", "/events", _LIMITED), ("GET", "/result", _FULL)],
)
def test_every_request_comes_back_when_the_service_says(page, photo, method, ending, refusal):
    page.refuse(method, ending, refusal, refusal)
    page.choose(photo)
    page.until(lambda: said(page) == f"{refusal['title']}; trying again in 1 s")
    page.settled()
    assert said(page) == "Done"


def test_a_spent_quota_is_not_waited_for(page, photo):
    page.refuse("POST", "s", _QUOTA)
    page.choose(photo)
    page.settled()
    assert page["problem-title"].text == "The quota is spent"


def test_a_key_that_no_request_can_carry_is_refused_at_once(driver, tmp_path):
    keys = tmp_path / "keys.json"
    key = add_key(keys)
    with fake_service(api_keys_file=keys, **FAKES) as (client, _):
        page = Page(driver, client.base_url)
        page.until(lambda: page["ask"].is_displayed())
        for unusable in (f"{key}\u200b", f"Bearer {key}", "schlüssel"):
            page["key"].clear()
            page["key"].send_keys(unusable)
            page["ask-ok"].click()
            assert page["ask"].is_displayed()
            assert page["key"].get_property("validationMessage").startswith("This is no key")
            assert page.focus() == "key"
            assert page.run("return sessionStorage.length") == 0
        page["key"].clear()
        page["key"].send_keys(f" {key} ", Keys.ENTER)
        page.ready()
        assert not page["error"].is_displayed()
        page.run("sessionStorage.clear()")


def test_a_note_ends_with_the_run_that_is_cancelled(page, photo):
    page.refuse("POST", "s", _FULL | {"retry_after_s": 30})
    page.choose(photo)
    page.until(lambda: said(page) == "The queue is full; trying again in 30 s")
    page["cancel"].click()
    page.until(lambda: page.stages() == ["cancelled"])
    assert said(page) == "Cancelled"
    page.until(lambda: page["status"].text == "astronaut.jpg: cancelled.")


def test_a_note_ends_with_the_run_that_fails(page, photo):
    page.refuse("POST", "s", _FULL, _CORRUPT)
    page.choose(photo)
    page.settled()
    assert said(page) == "The image cannot be decoded"


def test_a_note_ends_with_the_run_that_was_over_before_it_was_watched(page, photo):
    page.refuse("POST", "s", _FULL)
    page.run(_HOLD, "/events")
    page.choose(photo)
    page.run("setTimeout(window.letGo, 2000)")
    page.settled()
    assert said(page) == "Done"


def test_an_edit_just_before_the_end_of_a_run_begins_another(page, photo):
    page.run(_HOLD, "/result")
    page.choose(photo)
    page.until(lambda: page.stages() == ["ended"])
    page.run(  # the picture comes before the choice has come to rest
        """
        for (const [name, value] of [["num_steps", "9"], ["faces", "largest"]]) {
          document.getElementById(name).value = value;
          document.getElementById(name).dispatchEvent(new Event("change", { bubbles: true }));
        }
        window.letGo();
        """
    )
    page.until(lambda: "9 steps" in page["facts"].text)
    assert page["faces"].get_property("value") == "largest"
    assert page["seed"].get_property("value")


def test_half_typed_options_survive_the_end_of_a_run(held, photo):
    page, broker = held
    page.choose(photo)
    page.until(lambda: page.stages() == ["running"])
    page["seed"].send_keys("7", Keys.BACKSPACE)
    page["num_steps"].send_keys(Keys.CONTROL + "a" + Keys.NULL, "1")
    broker.go.set()
    page.settled()
    assert page["num_steps"].get_property("value") == "1"
    assert page["seed"].get_property("value") == ""
