"""The page in a real browser, served by a real server with a fake queue of faces and a fake detector behind it."""

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from service.core.errors import InferenceFailed
from tests.api_keys import add_key
from tests.browser.visitor import Page
from tests.fakes import EchoBroker, FakeDetector, HeldBroker, face_at
from tests.serving import fake_service

pytestmark = pytest.mark.browser

FACE = face_at(160, 40, 130)


def find_face(pixels):
    """A face in pictures as large as the astronaut's."""
    return [FACE] if min(pixels.shape[:2]) > 400 else []


@pytest.fixture(scope="module")
def client():
    with fake_service(detector=FakeDetector(find_face)) as (client, _):
        yield client


def test_a_photo_is_restored_and_reported(page, photo):
    assert page["empty"].is_displayed()
    assert not page["viewer"].is_displayed()
    page.change("fidelity", 0)
    page["seed"].send_keys("42")
    page.choose(photo)
    page.settled()
    before, after = page.pixels("before"), page.pixels("after")
    assert before.shape == after.shape == (512, 512, 3)
    changed = np.abs(before - after).max(axis=2) > 24
    assert changed[60:150, 180:270].mean() > 0.5
    assert changed[300:].mean() < 0.01
    assert "4 steps, fidelity 0, seed 42" in page["facts"].text
    assert page["download"].get_attribute("download") == "astronaut-restored.jpg"
    assert page["download"].get_attribute("href").startswith("blob:")
    assert page["status"].text == "astronaut.jpg: 1 face restored."
    assert page.complaints() == []


def test_each_face_has_a_box_on_the_photo_and_an_entry_that_leads_to_it(page, photo):
    page.choose(photo)
    page.settled()
    (entry,) = page.all("#face-list button")
    assert entry.text.split("\n")[:2] == ["Face 1", "restored"]
    assert "130 px · score 0.90 · IndRMSE 0." in entry.text
    (box,) = page.all("#boxes rect")
    assert [float(box.get_attribute(name)) for name in ("x", "y", "width", "height")] == [160, 40, 130, 130]
    whole = box.rect["width"]
    entry.click()
    assert entry.get_attribute("aria-pressed") == "true"
    assert "marked" in box.get_attribute("class")
    page.until(lambda: box.rect["width"] > 1.5 * whole)
    frame, near = page["compare"].rect, box.rect
    assert frame["x"] <= near["x"] < near["x"] + near["width"] <= frame["x"] + frame["width"]
    entry.click()
    page.until(lambda: abs(box.rect["width"] - whole) < 1)


def test_the_boundary_moves_by_keys_and_by_pointer(page, photo):
    page.change("fidelity", 0)
    page.choose(photo)
    page.settled()
    slider = page["slider"]

    def at():
        return int(slider.get_attribute("aria-valuenow"))

    assert (slider.get_attribute("role"), at()) == ("slider", 50)
    slider.send_keys(Keys.ARROW_RIGHT)
    assert (at(), slider.get_attribute("aria-valuetext")) == (52, "52 % before, 48 % after")
    for key, expected in ((Keys.PAGE_DOWN, 42), (Keys.END, 100), (Keys.ARROW_RIGHT, 100), (Keys.HOME, 0)):
        slider.send_keys(key)
        assert at() == expected
    restored = page.shot()
    slider.send_keys(Keys.END)
    sent = page.shot()
    frame = page["compare"].rect
    left, top = round(frame["x"] + frame["width"] * 0.36), round(frame["y"] + frame["height"] * 0.2)
    face = np.s_[top : top + 40, left : left + 40]
    assert np.abs(restored[face] - sent[face]).mean() > 20
    page.drag(0.2, 0.75)
    assert abs(at() - 75) <= 1
    assert page.run("return document.activeElement.id") == "slider"
    page.swipe(0.7, 0.3)
    assert abs(at() - 30) <= 1


def test_other_options_need_no_second_upload(page, photo):
    page.change("fidelity", 0)
    page.choose(photo)
    page.settled()
    first, seed = page.pixels("after"), page["seed"].get_property("value")
    assert [size > photo.stat().st_size for size in page.sent_bytes()] == [True]
    page.change("fidelity", 1)
    page.until(lambda: "fidelity 1," in page["facts"].text)
    assert f"seed {seed} " in page["facts"].text
    assert np.abs(page.pixels("after") - first)[60:150, 180:270].mean() > 20
    page.change("num_steps", 9)
    page.until(lambda: "9 steps" in page["facts"].text)
    page["reseed"].click()
    page.until(lambda: f"seed {seed} " not in page["facts"].text)
    again = page.sent_bytes()
    assert len(again) == 3
    assert max(again) < 2000
    assert page.complaints() == []


def test_a_photo_that_the_service_has_forgotten_is_sent_again(page, client, photo, driver):
    page.choose(photo)
    page.settled()
    page.sent_bytes()
    forget_all = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    (result,) = [name for name in page.run(forget_all) if name.endswith("/result")]
    assert client.delete(result.removesuffix("/result")).status_code == 204
    page.change("fidelity", 0.5)
    page.until(lambda: "fidelity 0.5," in page["facts"].text)
    assert [size > photo.stat().st_size for size in page.sent_bytes()] == [False, True]


def test_several_photos_at_once_each_with_its_own_end(page, photo, wall):
    page.choose(photo, wall, photo, wall, photo)
    page.settled()
    assert page.stages() == ["done", "failed", "done", "failed", "done"]
    assert page["name"].text == "astronaut.jpg"
    page.all("#photos button")[1].click()
    assert page["problem-title"].text == "No face was found"
    assert page["problem-hint"].text.startswith("Choose a photo in which a face can be seen")
    assert not page["retry"].is_displayed()
    assert not page["slider"].is_displayed()
    page.all("#photos button")[4].click()
    assert page.all("#photos button")[4].get_attribute("aria-current") == "true"
    assert page["slider"].is_displayed()


def test_photos_may_be_dropped_and_pasted(page, photo, wall):
    for event in ("drop", "paste"):
        page.bring(event)
        assert page["empty"].is_displayed() or page.stages() == ["done", "failed"]
        page.bring(event, photo, wall)
        page.settled()
    assert page.stages() == ["done", "failed"] * 2


def test_a_full_line_is_waited_out(driver, photo):
    broker = HeldBroker()
    with fake_service(broker=broker, detector=FakeDetector(find_face), job_photos=1, max_queued_photos=1) as (
        client,
        _,
    ):
        page = Page(driver, client.base_url).ready()
        page.choose(photo, photo, photo)
        page.until(lambda: any("trying again in" in item.text for item in page.all("#photos small")))
        broker.go.set()
        page.settled()
        assert page.stages() == ["done"] * 3


def test_what_is_deleted_is_gone_from_the_service_and_from_the_page(page, client, photo, wall):
    page.choose(photo, wall)
    page.settled()
    url = page["after"].get_attribute("src")
    (result,) = [
        name
        for name in page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        if name.endswith("/result")
    ]
    assert client.get(result).status_code == 200
    page["forget"].click()
    page.until(lambda: "deleted" in page["status"].text)
    assert client.get(result).status_code == 404
    assert page.run("return fetch(arguments[0]).then(() => 'there', () => 'gone')", url) == "gone"
    assert page["name"].text == "wall.png"
    page["forget"].click()
    page.until(lambda: page["empty"].is_displayed())
    assert page.run("return document.activeElement.id") == "image"


def test_what_is_no_photo_or_too_large_is_explained(page, client, tmp_path):
    heic, huge = tmp_path / "IMG_1.HEIC", tmp_path / "huge.jpg"
    heic.write_bytes(b"\0\0\0\x18ftypheic" + bytes(2000))
    with huge.open("wb") as file:
        file.truncate(client.get("/v1/limits").json()["max_upload_bytes"] + 1)
    page.choose(heic)
    page.settled()
    assert page["problem-title"].text == "The file format is not supported"
    assert page["problem-hint"].text.startswith("Save it as JPEG, PNG or WebP first")
    page.sent_bytes()
    page.choose(huge)
    page.until(lambda: page.stages() == ["failed", "failed"])
    assert page["problem-title"].text == "The photo is too large"
    assert page["problem-detail"].text == "It has 32.0 MB, the service takes 32.0 MB."
    assert page.sent_bytes() == []


def test_a_failure_of_the_service_is_shown_and_can_be_tried_again(driver, photo):
    broker = EchoBroker(error=InferenceFailed("velocity failed", hint="try again"))
    with fake_service(broker=broker, detector=FakeDetector(find_face)) as (client, _):
        page = Page(driver, client.base_url).ready()
        page.choose(photo)
        page.settled()
        assert page["problem-title"].text == "Inference failed"
        assert page["problem-hint"].text == "try again."
        broker.error = None
        page["retry"].click()
        assert page.focus() == "viewer"
        page.until(lambda: page.stages() == ["done"])
        assert not page["problem"].is_displayed()


def test_cancel(driver, photo):
    broker = HeldBroker()
    with fake_service(broker=broker, detector=FakeDetector(find_face)) as (client, _):
        page = Page(driver, client.base_url).ready()
        page.choose(photo)
        assert broker.begun.acquire(timeout=30)
        page.until(lambda: page.stages() == ["running"])
        page["cancel"].click()
        assert broker.dropped.wait(timeout=30)
        page.until(lambda: page["status"].text == "astronaut.jpg: cancelled.")
        assert page.stages() == ["cancelled"]
        assert not page["cancel"].is_displayed()
        broker.go.set()
        page.change("fidelity", 0)
        page.until(lambda: page.stages() == ["done"])


def test_the_line_is_shown_while_photos_wait(driver, photo):
    broker = HeldBroker()
    with fake_service(broker=broker, detector=FakeDetector(find_face), job_photos=1) as (client, _):
        page = Page(driver, client.base_url).ready()
        page.choose(photo, photo, photo)
        told = ["Looking for faces", "next in the line", "1 before it in the line"]
        page.until(lambda: sorted(item.text for item in page.all("#photos small")) == sorted(told))
        broker.go.set()
        page.settled()


def test_a_service_with_keys_asks_for_one(driver, photo, tmp_path):
    keys = tmp_path / "keys.json"
    key = add_key(keys)
    with fake_service(api_keys_file=keys, detector=FakeDetector(find_face)) as (client, _):
        page = Page(driver, client.base_url)
        page.until(lambda: page["ask"].is_displayed())
        for text, words in (("wrong", "refused"), (key, None)):
            page["key"].send_keys(text)
            page["ask-ok"].click()
            if words:
                page.until(lambda words=words: words in page["ask-why"].text)
        page.ready()
        page.choose(photo)
        page.settled()
        assert page.stages() == ["done"]
        assert page.run("return localStorage.length") == 0
        assert key not in page.run("return document.documentElement.outerHTML")
        driver.find_element(By.ID, "forget").click()
        page.until(lambda: page["empty"].is_displayed())
        page.run("sessionStorage.clear()")
