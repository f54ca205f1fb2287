"""Headless Chromium, driven by what a person does: keys, clicks, and looking."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SECONDS = 30


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    pytest.importorskip("selenium", reason="needs selenium")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium (or google-chrome) and chromedriver on the PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # As root and in containers Chromium has neither a sandbox nor much shared memory.
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-proxy-server"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Browser(webdriver.Chrome(options, webdriver.ChromeService(driver)))
    try:
        yield browser
    finally:
        browser.driver.quit()


class Browser:
    """One tab."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.resize(1200, 900)

    def resize(self, width: int, height: int) -> None:
        """The size of the page in CSS pixels; windows have a least width that phones have not."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> None:
        """Load the page anew and wait for its list of models, or for the question after the key."""
        self.driver.get("about:blank")
        self.driver.get(url)
        self.until(lambda: self.find("#model").is_enabled() or self.find("#key-form").is_displayed())

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """Everything that an element holds, visible or not, as it is."""
        return self.find(selector).get_property("textContent")

    def fill(self, selector: str, text: str) -> None:
        """Replace what a field holds."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def keys(self, *keys: str) -> None:
        """Press keys, together, where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver)
        for key in keys:
            chain.key_down(key)
        for key in reversed(keys):
            chain.key_up(key)
        chain.perform()

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for what must come true."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, SECONDS, poll_frequency=0.02).until(lambda _: condition())

    def complaints(self) -> list[str]:
        """What the console says of scripts and of the security policy; that an answer was an error is no complaint."""
        said = (entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE")
        return [message for message in said if "Failed to load resource" not in message]
