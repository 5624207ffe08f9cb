"""A browser, headless, on the Django example: it logs in, uploads a file, logs out.

Knows: Chromium by its driver, the pages of `examples/django_app.py`, the command.   Must not know: HTTP.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apps.blocks import pattern
from programs import Program
from wire import GUARD

pytest.importorskip("django", reason="`make frameworks` installs django")
pytest.importorskip("selenium", reason="`make frameworks` installs selenium")

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver (Debian: apt-get install chromium chromium-driver)"
)

PROJECT = Path(__file__).parents[2]

# Nothing but the server is talked to, and the user's own profile is left alone.
SWITCHES = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
SWITCHES += ["disable-component-update", "disable-sync", "disable-dev-shm-usage", "disable-default-apps"]
SWITCHES += ["disable-domain-reliability", "no-proxy-server", "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for switch in [*SWITCHES, f"user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(GUARD)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def site() -> Iterator[str]:
    """The example served by the command; it ends as it should."""
    with Program("-m", "bjoern", "-b", "127.0.0.1:0", "examples.django_app:app", cwd=PROJECT) as served:
        announced = served.announced()
        yield announced[announced.index("http://") :].split()[0].rstrip("/,;")


def fill(browser: Chrome, **fields: str) -> None:
    """Types into the page's form, sends it, and waits for the page that answers."""
    for name, value in fields.items():
        browser.find_element(By.NAME, name).send_keys(value)
    click(browser, "#send")


def click(browser: Chrome, selector: str) -> None:
    browser.execute_script("window.left = true")
    browser.find_element(By.CSS_SELECTOR, selector).click()
    # Between two pages there may be none to ask.
    arrival = WebDriverWait(browser, GUARD, ignored_exceptions=[WebDriverException])
    arrival.until(lambda _: browser.execute_script("return !window.left && document.readyState == 'complete'"))


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_login_and_upload(browser: Chrome, site: str, tmp_path: Path, size: int) -> None:
    file = tmp_path / "größe.bin"
    file.write_bytes(pattern(size))

    browser.get(f"{site}/upload")
    assert (browser.current_url, browser.title) == (f"{site}/login", "Login")
    fill(browser, name="Björn", password="wrong")
    assert "That is not the password." in browser.page_source
    fill(browser, password="bjoern")
    assert (browser.current_url, browser.title) == (f"{site}/upload", "Upload")

    fill(browser, file=str(file))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert browser.find_element(By.ID, "received").text == f"größe.bin: {size} bytes, SHA-256 {digest}"

    click(browser, "form[action='/logout'] button")
    browser.get(f"{site}/upload")
    assert browser.title == "Login"
    # It gives advice on forms, and asks for an icon, which is not there; a broken response would be something else.
    log: list[dict[str, str]] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    complaints = [entry["message"] for entry in log if entry["source"] != "recommendation"]
    assert [message for message in complaints if "favicon.ico" not in message] == []
