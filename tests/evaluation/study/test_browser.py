"""A study in a real browser: rate, kill the server, start it again, go on, export."""

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from wordbrush.cli.commands import study as commands
from wordbrush.evaluation.study.design import Study
from wordbrush.evaluation.study.store import Store

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PHONE, DESK = (390, 844), (1280, 800)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="there is no chromium with its driver: apt install chromium-driver"
    ),
]
Make = Callable[..., Study]
SERVE = """
import sys
from pathlib import Path

from wordbrush.cli.commands.study import serve

serve(Path(sys.argv[1]), port=int(sys.argv[2]))
"""


@contextmanager
def serving(study: Study, port: int = 0) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address, and a way to kill the server."""
    tokens = [sys.executable, "-c", SERVE, str(study.folder), str(port)]
    process = subprocess.Popen(tokens, stdout=subprocess.PIPE, text=True)

    def kill() -> None:
        process.kill()
        process.wait()

    assert process.stdout is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+/", line := process.stdout.readline())
        assert found is not None, line
        yield found[0], kill
    finally:
        kill()
        process.stdout.close()


@contextmanager
def browser(profile: Path, size: tuple[int, int], *, script: bool = True) -> Iterator[webdriver.Chrome]:
    """A browser whose cookies outlive it."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not script:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver
    finally:
        driver.quit()


def place(driver: webdriver.Chrome) -> str:
    return driver.find_element(By.CSS_SELECTOR, "header strong").text


def press(driver: webdriver.Chrome) -> None:
    """Press the button, and wait for the page that follows."""
    button = driver.find_element(By.CSS_SELECTOR, "button")
    button.click()
    WebDriverWait(driver, 30).until(lambda _: gone(button))


def gone(element: WebElement) -> bool:
    """Whether the page that the element was on has been left."""
    try:
        element.is_enabled()
    except WebDriverException:
        return True
    return False


def fill(driver: webdriver.Chrome, number: int) -> None:
    """Click one button in each group; in a ranking, another in each."""
    for i, group in enumerate(driver.find_elements(By.CSS_SELECTOR, ".options")):
        labels = group.find_elements(By.CSS_SELECTOR, "label")
        labels[(number + i) % len(labels)].click()


def check_fit(driver: webdriver.Chrome) -> None:
    """Nothing sticks out sideways, what is to be touched is large enough, and no rule of the page was broken."""
    wide, inner = driver.execute_script("return [document.scrollingElement.scrollWidth, innerWidth]")
    assert wide <= inner == PHONE[0]
    for element in driver.find_elements(By.CSS_SELECTOR, "label, button"):
        assert min(element.size["width"], element.size["height"]) >= 44
    for image in driver.find_elements(By.CSS_SELECTOR, "figure img"):
        assert driver.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", image)
    assert driver.get_log("browser") == []


def test_rate_kill_the_server_go_on_and_export(make: Make, tmp_path: Path):
    study = make("rating", pages_per_rater=10, attention_checks=2)
    profile = tmp_path / "profile"
    with browser(profile, PHONE) as driver:
        with serving(study) as (address, kill):
            port = int(address.split(":")[2].strip("/"))
            driver.get(address)
            check_fit(driver)
            press(driver)
            for number in range(1, 7):
                assert place(driver) == f"{number} of 12"
                check_fit(driver)
                fill(driver, number)
                if number < 6:
                    press(driver)
            kill()  # the sixth page is filled in and not sent
        press(driver)
        assert driver.find_elements(By.CSS_SELECTOR, "header strong") == []  # the browser says: no server
        with serving(study, port) as (again, _):
            assert again == address
            driver.get(address)
            assert place(driver) == "6 of 12"
    with browser(profile, PHONE) as driver, serving(study, port):  # both anew
        driver.get(address)
        for number in range(6, 13):
            assert place(driver) == f"{number} of 12"
            fill(driver, number)
            press(driver)
        assert "Thank you" in driver.title
        check_fit(driver)
    assert commands.export(study.folder, out=str(tmp_path / "answers.csv")) == 0
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 3
    expected = [str((page + question) % 5 + 1) for page in range(1, 13) for question in range(3)]
    assert [row["answer"] for row in rows] == expected


def test_a_choice_without_script(make: Make, tmp_path: Path):
    study = make("choice", references=3, pages_per_rater=3, attention_checks=1)
    with serving(study) as (address, _), browser(tmp_path / "profile", PHONE, script=False) as driver:
        driver.get(address)
        press(driver)
        for number in range(1, 5):
            assert place(driver) == f"{number} of 4"
            fill(driver, number)
            press(driver)
        assert "Thank you" in driver.title


def test_a_ranking_by_keys_alone(make: Make, tmp_path: Path):
    study = make("ranking", pages_per_rater=2, attention_checks=0, questions=["subject"])
    with serving(study) as (address, _), browser(tmp_path / "profile", DESK) as driver:
        driver.get(address)
        press(driver)
        for number in range(1, 3):
            assert place(driver) == f"{number} of 2"
            body = driver.find_element(By.TAG_NAME, "body")
            webdriver.ActionChains(driver).send_keys("2", "3", "1").perform()
            assert driver.switch_to.active_element.tag_name == "button"
            webdriver.ActionChains(driver).send_keys(Keys.ENTER).perform()
            WebDriverWait(driver, 30).until(lambda _, body=body: gone(body))
        assert "Thank you" in driver.title
    with Store(study.answers, "ranking") as store:
        for answer in store.answers():
            first, second, third = answer.trial.shown
            assert answer.answer == f"{third}>{first}>{second}"


def test_a_picture_is_enlarged_and_what_was_filled_in_stays(make: Make, tmp_path: Path):
    study = make("rating")
    with serving(study) as (address, _), browser(tmp_path / "profile", PHONE) as driver:
        driver.get(address)
        press(driver)
        fill(driver, 1)
        chosen = "return document.querySelectorAll('input:checked').length"
        assert driver.execute_script(chosen) == 3
        driver.find_element(By.CSS_SELECTOR, "figure a").click()
        large = driver.find_element(By.CSS_SELECTOR, ".large:target img")
        assert large.size["width"] > 350
        driver.find_element(By.CSS_SELECTOR, ".large:target").click()
        assert driver.find_elements(By.CSS_SELECTOR, ".large:target") == []
        assert driver.execute_script(chosen) == 3
