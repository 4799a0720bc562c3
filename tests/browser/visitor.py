"""The page as a visitor sees and uses it."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.fakes import FakeDetector, face_at

FAKES = {"detector": FakeDetector(lambda pixels: [face_at(160, 40, 130)])}
"""Of a service that sees one face, the astronaut's, in every photo."""

_PIXELS = """
    const [image, done] = arguments;
    createImageBitmap(image).then(async (bitmap) => {
      const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      done(Array.from(new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())));
    });
"""

_ANSWER = """
    const [method, ending, answers] = arguments;
    const before = window.fetch;
    window.fetch = async (path, init = {}) => {
      if ((init.method ?? "GET") !== method || !path.endsWith(ending) || !answers.length) return before(path, init);
      const { status, arrives, ...told } = answers.shift();
      if (arrives) await before(path, init);
      if (!status) throw new TypeError("Failed to fetch");
      return new Response(JSON.stringify(told), { status });
    };
"""


class Page:
    """The page in a browser; `page[id]` is an element."""

    def __init__(self, driver, address):
        self._driver = driver
        for log in ("browser", "performance"):
            driver.get_log(log)
        driver.get(str(address))

    def __getitem__(self, name):
        return self._driver.find_element(By.ID, name)

    def all(self, selector):
        return self._driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script, *arguments):
        return self._driver.execute_script(script, *arguments)

    def until(self, condition):
        WebDriverWait(self._driver, 60).until(lambda _: condition())

    def ready(self):
        self.until(lambda: self.run("return 'ready' in document.documentElement.dataset"))
        return self

    def choose(self, *photos):
        self["image"].send_keys("\n".join(map(str, photos)))

    def stages(self):
        return [item.get_attribute("data-stage") for item in self.all("#photos li")]

    def settled(self):
        self.until(lambda: self.stages() and set(self.stages()) <= {"done", "failed", "cancelled"})
        return self

    def change(self, name, value):
        """Set a control as a visitor does who comes to rest on a value."""
        script = """
            arguments[0].value = arguments[1];
            for (const kind of ["input", "change"]) arguments[0].dispatchEvent(new Event(kind, { bubbles: true }));
        """
        self.run(script, self[name], str(value))

    def refuse(self, method, ending, *answers):
        """Let the page's next such requests have these answers instead of the service's; status 0: they get none."""
        self.run(_ANSWER, method, ending, list(answers))

    def focus(self):
        """The id of what has it."""
        return self.run("return document.activeElement.id")

    def drag(self, from_share, to_share):
        """Draw with the pointer over the picture, from one share of its width to another."""
        frame = self["compare"]
        width = frame.size["width"]
        actions = ActionChains(self._driver, duration=50)
        actions.move_to_element_with_offset(frame, round((from_share - 0.5) * width), 0).click_and_hold()
        actions.move_to_element_with_offset(frame, round((to_share - 0.5) * width), 0).release().perform()

    def swipe(self, from_share, to_share):
        """The same with a finger."""
        frame = self["compare"]
        top = self.run("return arguments[0].getBoundingClientRect().top", frame)
        y = top + frame.size["height"] / 2
        for kind, share in (("touchStart", from_share), ("touchMove", to_share), ("touchEnd", None)):
            points = [] if share is None else [{"x": frame.rect["x"] + share * frame.size["width"], "y": y}]
            self._driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def pinch(self):
        """Spread two fingers on the picture; the value is how much larger the page is seen then."""
        frame = self.run("return arguments[0].getBoundingClientRect().toJSON()", self["compare"])
        x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
        for kind, apart in (("touchStart", 0), *(("touchMove", 6 * step) for step in range(12)), ("touchEnd", None)):
            sides = [] if apart is None else [-20 - apart, 20 + apart]
            points = [{"x": x + side, "y": y, "id": finger} for finger, side in enumerate(sides)]
            self._driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        scale = self.run("return visualViewport.scale")
        self._driver.execute_cdp_cmd("Emulation.setPageScaleFactor", {"pageScaleFactor": 1})
        return scale

    def drop_path(self, path):
        """Drop what lies there, as a file manager does."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            told = {"type": kind, "x": 600, "y": 400, "data": data}
            self._driver.execute_cdp_cmd("Input.dispatchDragEvent", told)

    def bring(self, event, *photos):
        """Drop or paste photos, or text when there is none."""
        files = [[photo.name, f"image/{photo.suffix[1:]}", list(photo.read_bytes())] for photo in photos]
        script = """
            const data = new DataTransfer();
            const [event, files] = arguments;
            for (const [name, type, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, { type }));
            if (!files.length) data.setData("text/plain", "words");
            const told = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
            const kind = { paste: ClipboardEvent, drop: DragEvent }[event];
            document.body.dispatchEvent(new kind(event, told));
        """
        self.run(script, event, files)

    def pixels(self, name):
        """A picture of the page, at its own size."""
        self.until(lambda: self[name].get_property("naturalWidth"))
        data = bytes(self._driver.execute_async_script(_PIXELS, self[name]))
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    def shot(self):
        """What can be seen."""
        return np.asarray(Image.open(io.BytesIO(self._driver.get_screenshot_as_png())).convert("RGB")).astype(int)

    def sent_bytes(self):
        """Sizes of the requests for restorations since the last call."""
        sizes, posts = {}, []
        for entry in self._driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            told = message["params"]
            if message["method"] == "Network.requestWillBeSentExtraInfo":
                headers = {name.lower(): value for name, value in told["headers"].items()}
                sizes[told["requestId"]] = headers.get("content-length")
            elif message["method"] == "Network.requestWillBeSent" and _submits(told["request"]):
                posts.append(told["requestId"])
        return [int(sizes[post]) for post in posts]

    def complaints(self):
        """What the browser's console says is wrong: errors, refused scripts and styles, failed requests."""
        return [entry["message"] for entry in self._driver.get_log("browser") if entry["level"] == "SEVERE"]

    @contextlib.contextmanager
    def seen_as(self, *, width=None, height=900, dark=False, still=False):
        """On a screen of that width, with these preferences."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        if width is not None:
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        try:
            yield
        finally:
            self._driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def _submits(request):
    return request["method"] == "POST" and request["url"].endswith("/v1/restorations")
