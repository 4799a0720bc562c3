"""Photos, files, keys and connections that are not as one expects: the page says what is the matter, and goes on."""

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys
from skimage.data import astronaut

from tests.api_keys import add_key
from tests.browser.visitor import FAKES, Page
from tests.fakes import HeldBroker, PreviewingBroker
from tests.pictures import saved
from tests.serving import fake_service

pytestmark = pytest.mark.browser

_FORGOTTEN = {"status": 404, "code": "not_found", "title": "Not found", "retryable": False}
_NO_STORAGE = """
    Object.defineProperty(window, "sessionStorage", { get() { throw new DOMException("denied", "SecurityError"); } });
"""
_BREAK_OFF = """
    const before = window.fetch;
    let broken = 0;
    window.fetch = async (path, init) => {
      if (!path.endsWith("/result") || broken++) return before(path, init);
      return new Response(new ReadableStream({ start: (stream) => stream.error(new TypeError("network error")) }));
    };
"""
_SEED = 2**63 - 1


@pytest.fixture(scope="module")
def client():
    with fake_service(**FAKES) as (client, _):
        yield client


@pytest.fixture
def guarded(driver, tmp_path):
    """A page whose service asks for a key, and the key."""
    keys = tmp_path / "keys.json"
    key = add_key(keys)
    with fake_service(api_keys_file=keys, **FAKES) as (client, _):
        page = Page(driver, client.base_url)
        page.until(lambda: page["ask"].is_displayed())
        yield page, key
        page.run("try { sessionStorage.clear(); } catch {}")


@pytest.fixture
def dense(tmp_path):
    """A photo of 512 x 512 pixels that browsers show as one of 256 x 256."""
    photo, exif = tmp_path / "dense.jpg", Image.Exif()
    exif.update({0x011A: 144.0, 0x011B: 144.0, 0x0128: 2})  # 144 dpi
    exif.get_ifd(0x8769).update({0xA002: 256, 0xA003: 256})  # the size at 72 dpi
    photo.write_bytes(saved(Image.fromarray(astronaut()), "JPEG", exif=exif))
    return photo


def test_a_folder_is_called_what_it_is(page, tmp_path):
    folder = tmp_path / "holidays"
    folder.mkdir()
    page.drop_path(folder)
    page.settled()
    assert page["problem-title"].text == "The file cannot be read"
    assert page.sent_bytes() == []


def test_boxes_lie_on_the_faces_of_a_photo_with_a_resolution(page, dense):
    page.choose(dense)
    page.settled()
    assert page["before"].get_property("naturalWidth") == 256
    for factor in (1, 2):
        page.change("upscale", factor)
        page.until(lambda factor=factor: page["after"].get_property("naturalWidth") == 512 * factor)
        (box,) = page.all("#boxes rect")
        frame = page["compare"].rect
        assert box.rect["width"] == pytest.approx(130 / 512 * frame["width"], abs=3)
        assert box.rect["x"] - frame["x"] == pytest.approx(160 / 512 * frame["width"], abs=3)


def test_previews_lie_on_the_faces_of_a_photo_with_a_resolution(driver, dense):
    broker = PreviewingBroker()
    with fake_service(broker=broker, **FAKES) as (client, _):
        page = Page(driver, client.base_url).ready()
        page.choose(dense)
        page.until(lambda: page.all("#previews image") and page["before"].get_property("complete"))
        assert page["before"].get_property("naturalWidth") == 256
        page.until(lambda: page["overlay"].get_dom_attribute("viewBox") == "0 0 512 512")
        (preview,), frame = page.all("#previews image"), page["compare"].rect
        middle = preview.rect["x"] + preview.rect["width"] / 2 - frame["x"]
        assert middle == pytest.approx(225 / 512 * frame["width"], abs=5)
        broker.go.set()
        page.settled()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_before_and_after_lie_the_same_way(page, tmp_path, kind):
    photos = [tmp_path / f"{orientation}.{kind.lower()}" for orientation in range(1, 9)]
    for orientation, photo in enumerate(photos, 1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo.write_bytes(saved(Image.fromarray(astronaut()[::2, :440:2]), kind, exif=exif))
    page.choose(*photos)
    page.settled()
    for entry in page.all("#photos button"):
        entry.click()
        page.until(lambda: page["before"].get_property("naturalWidth") == page["after"].get_property("naturalWidth"))
        before, after = page.pixels("before"), page.pixels("after")
        assert np.abs(before[150:] - after[150:]).mean() < 8, entry.text  # below the face that was restored
    assert page.complaints() == []


def test_what_shines_through_does_so_once(page, tmp_path):
    photo = tmp_path / "ghost.png"
    picture = Image.new("RGBA", (512, 512), (20, 40, 60, 128))
    photo.write_bytes(saved(picture, "PNG"))
    page.choose(photo)
    page.settled()
    page.until(lambda: page["after"].get_property("naturalWidth"))
    frame = page["compare"].rect
    left, top, side = round(frame["x"]), round(frame["y"] + 0.7 * frame["height"]), round(frame["width"])
    seen = page.shot()[top : top + 20]
    before, after = seen[:, left + side // 4], seen[:, left + 3 * side // 4]
    assert np.abs(before - after).max() <= 2


def test_a_photo_can_be_enlarged_with_two_fingers(driver, client, photo):
    page = Page(driver, client.base_url)
    with page.seen_as(width=390):
        driver.refresh()
        page.ready().choose(photo)
        page.settled()
        page.run("document.getElementById('compare').scrollIntoView({ block: 'center' })")
        assert page.pinch() > 1.2


def test_who_leaves_is_asked_while_something_would_be_lost(page, photo):
    def leaves():
        return page.run("return dispatchEvent(new Event('beforeunload', { cancelable: true }))")

    assert leaves()
    page.choose(photo)
    page.settled()
    page.all("#photos button")[0].click()
    assert not leaves()
    page["download"].click()
    assert leaves()
    page.change("fidelity", 0)
    page.until(lambda: "fidelity 0," in page["facts"].text)
    assert not leaves()


def test_another_run_and_another_photo_leave_the_face_near(page, photo, wall):
    page.choose(photo)
    page.settled()
    page.all("#face-list button")[0].click()
    near = page.run("return document.getElementById('compare').style.getPropertyValue('--view')")
    assert "scale(1)" not in near
    page.change("fidelity", 0)
    page.until(lambda: "fidelity 0," in page["facts"].text)
    page.choose(wall)
    page.until(lambda: page["name"].text == "wall.png")
    assert "scale(1)" in page.run("return document.getElementById('compare').style.getPropertyValue('--view')")
    page.all("#photos button")[0].click()
    assert page.run("return document.getElementById('compare').style.getPropertyValue('--view')") == near
    assert page.all("#face-list button")[0].get_attribute("aria-pressed") == "true"


def test_a_name_does_not_turn_around_what_follows(page, photo, tmp_path):
    reversing = tmp_path / "\u202egpj.exe.jpg"
    reversing.write_bytes(photo.read_bytes())
    page.choose(reversing)
    page.settled()
    assert page["status"].text == "gpj.exe.jpg: 1 face restored."
    assert page["download"].get_attribute("download") == "gpj.exe-restored.jpg"


def test_the_seed_of_a_deleted_photo_is_not_the_next_ones(page, photo):
    page.choose(photo)
    page.settled()
    seed = page["seed"].get_property("value")
    page["forget"].click()
    page.until(lambda: page["empty"].is_displayed())
    assert page["seed"].get_property("value") == ""
    page.choose(photo)
    page.settled()
    assert f"seed {seed} " not in page["facts"].text


def test_a_large_seed_is_told_to_the_last_digit(page, photo):
    page["seed"].send_keys(str(_SEED))
    page.choose(photo)
    page.settled()
    assert f"seed {_SEED} " in page["facts"].text
    assert page["seed"].get_property("value") == str(_SEED)


def test_the_focus_stays_when_the_button_that_has_it_goes(driver, photo):
    broker = HeldBroker()
    with fake_service(broker=broker, **FAKES) as (client, _):
        page = Page(driver, client.base_url).ready()
        page.choose(photo)
        page.until(lambda: page.stages() == ["running"])
        page.run("document.getElementById('cancel').focus()")
        broker.go.set()
        page.settled()
        assert page.focus() == "viewer"


def test_a_photo_that_a_service_started_anew_does_not_know_can_be_sent_again(page, client, photo):
    page.choose(photo)
    page.settled()
    (result,) = [
        name
        for name in page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        if name.endswith("/result")
    ]
    page.refuse("GET", "/events", _FORGOTTEN)
    page.change("num_steps", 9)
    page.until(lambda: page.stages() == ["failed"])
    assert page["problem-title"].text == "The service has lost the photo"
    client.delete(result.removesuffix("/result"))
    page["retry"].click()
    page.until(lambda: page.stages() == ["done"])
    assert "9 steps" in page["facts"].text


def test_a_connection_that_is_lost_is_told_of_and_taken_up_again(page, photo):
    page.refuse("GET", "/events", *[{"status": 0}] * 4)
    page.choose(photo)
    page.until(lambda: page.all("#photos small")[0].text == "The service does not answer; trying again")
    page.settled()
    assert page.all("#photos small")[0].text == "Done"


def test_a_picture_that_breaks_off_is_fetched_again(page, photo):
    page.run(_BREAK_OFF)
    page.choose(photo)
    page.settled()
    assert page.stages() == ["done"]
    assert page.pixels("after").shape == (512, 512, 3)


def test_a_question_is_no_sentence(page, photo):
    page.refuse("POST", "s", {"status": 400, "title": "Odd", "detail": "odd", "hint": "was the file read?"})
    page.choose(photo)
    page.settled()
    assert page["problem-detail"].text == "odd."
    assert page["problem-hint"].text == "was the file read?"


def test_whoever_has_no_key_yet_is_asked_again_with_the_next_photo(guarded, photo):
    page, key = guarded
    page["ask-no"].click()
    page.until(lambda: page["error"].is_displayed())
    assert page["error"].text.startswith("A key is needed. You gave none.")
    page.choose(photo)
    page.until(lambda: page["ask"].is_displayed())
    page["key"].send_keys(key, Keys.ENTER)
    page.settled()
    assert page.stages() == ["done"]
    assert not page["error"].is_displayed()


def test_a_photo_for_which_no_key_was_given_can_be_tried_again(guarded, photo):
    page, key = guarded
    page["key"].send_keys(key, Keys.ENTER)
    page.ready()
    page.run("sessionStorage.clear()")
    page.choose(photo)
    page.until(lambda: page["ask"].is_displayed())
    page["ask-no"].click()
    page.settled()
    assert page["problem-hint"].text == "Try again when you have one."
    page["retry"].click()
    page.until(lambda: page["ask"].is_displayed())
    page["key"].send_keys(key, Keys.ENTER)
    page.until(lambda: page.stages() == ["done"])


def test_a_browser_that_stores_nothing_will_do(guarded, driver, photo):
    page, key = guarded
    told = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _NO_STORAGE})
    try:
        driver.refresh()
        page.until(lambda: page["ask"].is_displayed())
        page["key"].send_keys(key, Keys.ENTER)
        page.ready().choose(photo)
        page.settled()
        assert page.stages() == ["done"]
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", told)
        driver.refresh()
