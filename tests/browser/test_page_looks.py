"""The page on narrow screens, in the dark, and for those who do not see it; the documentation beside it."""

import pytest

from tests.browser.visitor import Page
from tests.fakes import FakeDetector, face_at
from tests.serving import fake_service

pytestmark = pytest.mark.browser

_OVERHANG = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Relative luminance and contrast as WCAG 2.2 defines them; whatever has no ground of its own stands on its parent's.
_CONTRASTS = """
    const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const ground = (element) => {
      const colour = element ? parts(getComputedStyle(element).backgroundColor) : [255, 255, 255];
      return colour[3] === 0 ? ground(element.parentElement) : colour;
    };
    return [...document.querySelectorAll("h1, h2, p, small, strong, span, summary, label, button, a, output, .tag")]
      .filter((element) => element.checkVisibility() && element.textContent.trim() && element.children.length === 0)
      .map((element) => {
        const [one, other] = [light(parts(getComputedStyle(element).color)), light(ground(element))];
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        return [element.id || element.textContent.trim(), ratio];
      });
"""
_LEAST_CONTRAST = 4.5  # level AA for text of any size
_OPERABLE = {"button", "slider", "checkbox", "combobox", "link", "progressindicator", "spinbutton"}


def find_faces(pixels):
    return [face_at(160, 40, 130), face_at(330, 60, 40)] if min(pixels.shape[:2]) > 400 else []


@pytest.fixture(scope="module")
def address():
    with fake_service(detector=FakeDetector(find_faces)) as (client, _):
        yield client.base_url


@pytest.mark.parametrize("width", [320, 390, 800, 1400])
def test_nothing_sticks_out_at_any_width(driver, address, photo, wall, width):
    page = Page(driver, address)
    with page.seen_as(width=width):
        driver.refresh()
        page.ready().choose(photo, wall)
        page.settled()
        if not page["options"].get_attribute("open"):
            page.all("#options summary")[0].click()
        assert page.run(_OVERHANG) <= 0
        frame = page["compare"].rect
        assert frame["x"] >= 0
        assert frame["x"] + frame["width"] <= width
        page.all("#photos button")[1].click()
        assert page.run(_OVERHANG) <= 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(driver, address, photo, wall, dark):
    page = Page(driver, address)
    with page.seen_as(dark=dark):
        page.ready().choose(photo, wall)
        page.settled()
        for entry in page.all("#photos button"):
            entry.click()
            contrasts = page.run(_CONTRASTS)
            assert len(contrasts) > 20
            assert [(text, ratio) for text, ratio in contrasts if ratio < _LEAST_CONTRAST] == []
        assert (page.shot().mean() < 100) == dark


def test_whatever_can_be_operated_has_a_name(driver, address, photo):
    page = Page(driver, address).ready()
    page.choose(photo)
    page.settled()
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    operable = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in _OPERABLE and not node["ignored"]:
            operable.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert {"button", "slider", "checkbox", "combobox", "link", "spinbutton"} <= set(operable)
    assert [role for role, names in operable.items() if not all(names)] == []
    assert {"Fidelity", "Boundary between before and after"} <= set(operable["slider"])


def test_who_wants_no_motion_gets_none(driver, address, photo):
    page = Page(driver, address)
    with page.seen_as(still=True):
        page.ready().choose(photo)
        page.settled()
        page.all("#face-list button")[0].click()
        assert page.run("return getComputedStyle(document.getElementById('after')).transitionDuration") == "0s"
        assert page.run("return document.getAnimations().length") == 0


def test_the_tab_key_reaches_everything_in_the_order_of_the_page(driver, address, photo):
    page = Page(driver, address).ready()
    page.choose(photo)
    page.settled()
    page.run("document.body.focus(); document.activeElement.blur()")
    reached = []
    key = {"type": "rawKeyDown", "key": "Tab", "windowsVirtualKeyCode": 9}
    for _ in range(20):
        driver.execute_cdp_cmd("Input.dispatchKeyEvent", key)
        reached.append(page.run("return document.activeElement.id"))
    expected = ["image", "", "fidelity", "seed", "reseed", "num_steps", "upscale", "faces", "", "slider", "download"]
    begin = reached.index("image")
    assert reached[begin : begin + len(expected)] == expected


def test_the_documentation_works_without_the_network(driver, address):
    page = Page(driver, address)
    driver.get(f"{address}/docs")
    page.until(lambda: "Restore the faces of a photo" in page["swagger-ui"].text)
    assert page.complaints() == []
