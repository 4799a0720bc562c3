"""The page in a real browser, served by a real server with a fake queue and detector behind it."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from skimage.data import astronaut

from service.core.errors import InferenceFailed
from tests.fakes import EchoBroker, FakeDetector, HeldBroker, face_at
from tests.pictures import saved
from tests.serving import fake_service

pytestmark = pytest.mark.browser

FACE = face_at(160, 40, 130)


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))))
    for argument in ("--headless=new", "--window-size=1100,1200", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield browser
    browser.quit()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "astronaut.jpg"
    path.write_bytes(saved(Image.fromarray(astronaut()), "JPEG", quality=90))
    return path


class Page:
    """The page as a visitor sees it."""

    def __init__(self, driver, address):
        self._driver = driver
        driver.get_log("browser")
        driver.get(str(address))
        self.until(lambda: self["num_steps"].get_attribute("max") == "20")  # the limits have arrived

    def __getitem__(self, name):
        return self._driver.find_element(By.ID, name)

    def until(self, condition):
        WebDriverWait(self._driver, 30).until(lambda _: condition())

    def choose(self, photo):
        self["image"].send_keys(str(photo))

    def slide(self, name, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self._driver.execute_script(script, self[name], value)

    def restore(self):
        self["submit"].click()
        self.until(lambda: self["status"].text == "Done." or self["error"].is_displayed())

    def picture(self, name):
        """Pixels of a picture of the page, at its own size."""
        script = """
            const [image, done] = arguments;
            createImageBitmap(image).then(async (bitmap) => {
              const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
              canvas.getContext("2d").drawImage(bitmap, 0, 0);
              const bytes = new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
              done(Array.from(bytes));
            });
        """
        self.until(lambda: self[name].get_property("naturalWidth"))
        data = bytes(self._driver.execute_async_script(script, self[name]))
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    def complaints(self):
        """What the browser's console says is wrong: errors, refused scripts and styles, failed requests."""
        return [entry["message"] for entry in self._driver.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_photo_is_restored_and_forgotten(driver, photo, tmp_path):
    with fake_service(detector=FakeDetector(lambda _: [FACE])) as (client, _):
        page = Page(driver, client.base_url)
        assert page["fidelity"].get_property("value") == "1"
        assert not page["outcome"].is_displayed()
        page.choose(photo)
        page.slide("fidelity", 0)
        page["seed"].send_keys("42")
        page.restore()
        before, after = page.picture("before"), page.picture("after")
        assert before.shape == after.shape == (512, 512, 3)
        changed = np.abs(before - after).max(axis=2) > 24
        assert changed[60:150, 180:270].mean() > 0.5
        assert changed[300:].mean() < 0.01
        assert "tiny@7: 4 steps, fidelity 0, seed 42" in page["facts"].text
        assert page["rows"].text.startswith("1 160, 40, 290, 170 0.90 restored 0.")
        assert page["download"].get_attribute("download") == "restored.jpg"
        assert page["download"].get_attribute("href").startswith("blob:")
        assert driver.save_screenshot(str(tmp_path / "page.png"))
        page["forget"].click()
        page.until(lambda: page["status"].text.startswith("Deleted"))
        assert not page["forget"].is_enabled()
        assert page.complaints() == []


def test_an_error_says_what_to_do_and_the_next_photo_works(driver, photo, tmp_path):
    faces = []
    with fake_service(detector=FakeDetector(lambda _: faces)) as (client, _):
        page = Page(driver, client.base_url)
        page.choose(photo)
        page.restore()
        assert page["error"].text.startswith("No face was found.")
        assert "lower det_threshold" in page["error"].text
        assert page["submit"].is_enabled()
        faces.append(FACE)
        page.restore()
        assert not page["error"].is_displayed()
        assert page["outcome"].is_displayed()


def test_a_failure_of_the_service_is_shown(driver, photo):
    with fake_service(broker=EchoBroker(error=InferenceFailed("velocity failed"))) as (client, _):
        page = Page(driver, client.base_url)
        page.choose(photo)
        page.restore()
        assert page["error"].text.startswith("Inference failed.")


def test_cancel(driver, photo):
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, _):
        page = Page(driver, client.base_url)
        page.choose(photo)
        page["submit"].click()
        assert broker.begun.acquire(timeout=30)
        assert not page["submit"].is_enabled()
        page["cancel"].click()
        page.until(lambda: page["status"].text == "Cancelled.")
        assert broker.dropped.wait(timeout=30)
        assert page["submit"].is_enabled()
        assert not page["cancel"].is_displayed()


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_sticks_out_at_any_width(driver, photo, width):
    driver.set_window_size(width, 1200)
    with fake_service(detector=FakeDetector(lambda _: [FACE])) as (client, _):
        page = Page(driver, client.base_url)
        page.choose(photo)
        page.restore()
        overhang = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert driver.execute_script(overhang) <= 0
    driver.set_window_size(1100, 1200)


def test_the_documentation_works_without_the_network(driver):
    with fake_service() as (client, _):
        page = Page(driver, client.base_url)
        driver.get(f"{client.base_url}/docs")
        page.until(lambda: "Restore the faces of a photo" in page["swagger-ui"].text)
        assert page.complaints() == []
