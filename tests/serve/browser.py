"""Chromium as Debian has it, driven by Selenium, without a download: the page as people meet it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
_T = TypeVar("_T")
_PATIENCE_S = 60.0  # for a machine that is busy with other tests


class Page:
    """One tab; what is not there yet is waited for."""

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def open(self, url: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(url)
        self.find("html[data-ready]")

    def find(self, selector: str) -> WebElement:
        return self.until(lambda: self.driver.find_element(By.CSS_SELECTOR, selector), selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Of elements that are shown."""
        return [each.text for each in self.all(selector) if each.is_displayed()]

    def click(self, selector: str) -> None:
        self.until(lambda: self.find(selector).click() is None, f"a click on {selector}")

    def press(self, *keys: str) -> None:
        """Keys as a person presses them, where the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector: str) -> None:
        """Press Tab until the focus is there."""
        for _ in range(60):
            if self.js("return document.activeElement.matches(arguments[0])", selector):
                return
            self.press(Keys.TAB)
        raise AssertionError(f"Tab does not reach {selector}")

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, found: Callable[[], _T], what: str) -> _T:
        """The first true value of a function; what fails is tried again."""
        end, last = time.monotonic() + _PATIENCE_S, None
        while time.monotonic() < end:
            try:
                if value := found():
                    return value
            except (WebDriverException, AssertionError) as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"{what} never came; the page says {self.find('#note').text!r}; {last}")

    def is_(self, selector: str, expected: object, read: Callable[[list[str]], object] = lambda texts: texts) -> None:
        """Wait until the texts that are shown are these."""
        seen: list[object] = []

        def matches() -> bool:
            seen.append(read(self.texts(selector)))
            return seen[-1] == expected

        try:
            self.until(matches, selector)
        except AssertionError as error:
            raise AssertionError(f"{selector} is {seen[-1]!r}, not {expected!r}; {error}") from error

    def downloaded(self, suffix: str) -> Path:
        return self.until(lambda: next(self.downloads.glob(f"*{suffix}"), None), f"a file *{suffix}")

    def emulate(self, width: int = 1280, height: int = 900, *, scheme: str = "light") -> None:
        """A screen of this size, and what its owner prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def forget_complaints(self) -> None:
        """Those of an earlier test are not of the next."""
        self.driver.get("about:blank")
        self.complaints()

    def complaints(self) -> list[str]:
        """What the browser's console has of errors and refused content, since it was last asked."""
        return [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]


@contextmanager
def opened_browser(folder: Path, microphone: Path | None = None) -> Iterator[Page]:
    """A Chromium that hears a recording as its microphone."""
    assert BROWSER and DRIVER, "this test needs chromium and chromedriver (Debian: chromium chromium-driver)"
    options = Options()
    options.binary_location = BROWSER
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    arguments += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={folder / 'profile'}"]
    if microphone is not None:
        arguments += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        arguments += [f"--use-file-for-fake-audio-capture={microphone}%noloop"]
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    downloads = folder / "downloads"
    downloads.mkdir()
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    page = Page(driver, downloads)
    page.emulate()
    try:
        yield page
    finally:
        driver.quit()
