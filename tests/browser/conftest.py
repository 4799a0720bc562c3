"""One Chromium for the tests of the page, and photos to choose."""

from __future__ import annotations

import os
import shutil

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from skimage.data import astronaut

from tests.browser.visitor import Page
from tests.pictures import saved


@pytest.fixture(scope="session")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))))
    for name in ("headless=new", "window-size=1280,1000", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{name}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield browser
    browser.quit()


@pytest.fixture
def page(driver, client):
    """The page of the service that the module's `client` asks."""
    return Page(driver, client.base_url).ready()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "astronaut.jpg"
    path.write_bytes(saved(Image.fromarray(astronaut()), "JPEG", quality=90))
    return path


@pytest.fixture
def wall(tmp_path):
    path = tmp_path / "wall.png"
    path.write_bytes(saved(Image.new("RGB", (300, 200), (90, 120, 140)), "PNG"))
    return path
