"""The page with the bundled networks behind it, and its pictures for the documents.

`make page-pictures` keeps them: PAGE_PICTURES names the folder.
"""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtest.showcase import degraded_astronaut
from tests.browser.visitor import Page
from tests.pictures import saved
from tests.processes import ROOT, service_process

pytestmark = pytest.mark.browser

_MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    bundle, log = ROOT / "model_repository", tmp_path_factory.mktemp("page") / "serve.log"
    if not (bundle / "detector" / "1" / "model.onnx").is_file():
        pytest.skip("the detector has not been fetched")
    with service_process(bundle, log, inference_threads=1) as service:
        yield service.client.base_url


@pytest.fixture
def folder(tmp_path):
    return Path(os.environ.get("PAGE_PICTURES", tmp_path))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The README's astronaut, alone and twice, and a photo of nobody."""
    one = Image.open(io.BytesIO(degraded_astronaut()))
    two = Image.fromarray(np.concatenate([np.asarray(one), np.asarray(one)[:, ::-1]], axis=1))
    paths = []
    for name, picture in (
        ("astronaut.jpg", one),
        ("two of her.jpg", two),
        ("a wall.jpg", Image.new("RGB", (300, 200))),
    ):
        paths.append(tmp_path_factory.mktemp("photos") / name)
        paths[-1].write_bytes(saved(picture, "JPEG", quality=90))
    return paths


def keep(driver, path):
    """A screenshot, small enough for a document."""
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    data = saved(picture, "JPEG", quality=88, optimize=True)  # as PNG the photo would weigh several times as much
    assert len(data) < _MAX_BYTES
    path.write_bytes(data)


def test_the_page_on_a_desk(driver, address, photos, folder):
    page = Page(driver, address)
    with page.seen_as(width=1180, height=1240, still=True):
        page.ready().choose(*photos)
        page.settled()
        assert page.stages() == ["done", "done", "failed"]
        page.all("#face-list button")[0].click()
        page.run("scrollTo(0, 0)")
        keep(driver, folder / "page.jpg")


def test_faces_are_seen_on_their_way_where_they_are(driver, address, photos, folder):
    page = Page(driver, address)
    with page.seen_as(width=1000, height=640, still=True):
        page.ready()
        page.run("document.getElementById('num_steps').value = 60")
        page.choose(photos[1])
        page.until(lambda: len(page.all("#previews image")) == 2)
        frame = page["compare"].rect
        for preview in page.all("#previews image"):
            left, top = preview.rect["x"] - frame["x"], preview.rect["y"] - frame["y"]
            assert 0 < left < left + preview.rect["width"] < frame["width"]
            assert preview.rect["width"] == pytest.approx(0.16 * frame["width"], rel=0.2)
            assert -5 < top < 0.2 * frame["height"]
        keep(driver, folder / "page_preview.jpg")
        page["cancel"].click()
        page.until(lambda: page.stages() == ["cancelled"])
        assert page.all("#previews image") == []


def test_the_page_on_a_phone_in_the_dark(driver, address, photos, folder):
    page = Page(driver, address)
    with page.seen_as(width=390, height=1230, dark=True, still=True):
        driver.refresh()  # what is open on a desk is closed on a phone
        page.ready().choose(photos[0])
        page.settled()
        page.all("#face-list button")[0].click()
        page.run("document.activeElement.blur(); scrollTo(0, 0)")
        keep(driver, folder / "page_phone.jpg")
