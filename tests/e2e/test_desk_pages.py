"""The desk as a person sees it, in a real browser with scripts switched off."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.chromium import opened

pytestmark = pytest.mark.browser
WIDTHS = (1280, 500)


def without_scripts(options):
    options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    yield from opened(tmp_path_factory.mktemp("profile"), "--window-size=1280,1000", prepare=without_scripts)


@pytest.fixture(scope="module")
def link(run, tmp_path_factory):
    """`sau desk` on the finished run, with a copy of its ledger; the link that it prints."""
    folder = tmp_path_factory.mktemp("desk")
    for file in (run.path / ".sau").glob("ledger.db*"):
        shutil.copy(file, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = run.env(SAU_DATABASE_URL=f"sqlite:///{folder}/ledger.db", SAU_DESK_USERS="Ada Officer=officer")
    command = [sys.executable, "-u", "-m", "sau", "desk", "--port", str(port)]
    process = subprocess.Popen(command, cwd=run.path, env=env, stdout=subprocess.PIPE, text=True)
    try:
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, "sau desk ended"
            said += line
        yield re.search(r"http://\S+", said)[0]
    finally:
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def inside(browser, link):
    """The desk's address, with Ada in."""
    browser.get(link)
    assert "Requests" in browser.title
    return link.partition("/enter")[0]


def press(browser, words):
    from selenium.webdriver.common.by import By

    named = f"normalize-space()='{words}'"
    browser.find_element(By.XPATH, f"//button[{named}] | //summary[{named}]").click()


def write(browser, name, words):
    from selenium.webdriver.common.by import By

    browser.find_element(By.ID, name).send_keys(words)


def says(browser, words):
    """Whether the page comes to say it: a click does not wait for the page that it asks for."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    try:
        return WebDriverWait(browser, 60).until(lambda shown: words in shown.page_source)
    except TimeoutException:
        return False


def test_scripts_are_off(browser):
    browser.get("data:text/html,<title>no</title><script>document.title='yes'</script>")
    assert browser.title == "no"


def test_a_person_is_taken_and_decided_without_a_script(browser, inside):
    browser.get(f"{inside}/requests/new")
    write(browser, "subject", "demo-0007")
    press(browser, "Take the request")
    assert says(browser, "The request is taken.")
    press(browser, "Confirm the identity")
    write(browser, "why-confirm", "passport seen")
    press(browser, "Confirm")
    assert says(browser, "identity confirmed")
    assert says(browser, "passport seen")
    press(browser, "Search the data")
    assert says(browser, "rows of others were searched")


def test_no_page_is_wider_than_its_window_and_none_complains(browser, inside, run):
    for path in ("/?show=all", "/requests/new", "/versions", "/versions/tiny/2", f"/requests/{run.request['id']}"):
        for width in WIDTHS:
            browser.set_window_size(width, 1000)
            browser.get(inside + path)
            metrics = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})
            content, window = metrics["cssContentSize"]["width"], metrics["cssLayoutViewport"]["clientWidth"]
            assert content <= window, f"{path} at {width}: {content} > {window}"
        assert browser.get_log("browser") == [], path


def test_every_field_and_button_has_a_name(browser, inside, run):
    """As somebody hears the page who does not see it."""
    for path in ("/", "/requests/new", f"/requests/{run.request['id']}", "/versions/tiny/2"):
        browser.get(inside + path)
        tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = ("button", "textbox", "combobox", "checkbox", "link", "img", "table", "Date")
        shown = [node for node in tree if node.get("role", {}).get("value") in roles and not node.get("ignored")]
        assert shown
        nameless = [node["role"]["value"] for node in shown if not node.get("name", {}).get("value")]
        assert nameless == [], path
        levels = [int(x) for x in re.findall(r"<h([1-6])", browser.page_source)]
        assert levels[0] == 1
        assert levels.count(1) == 1


def test_the_report_and_the_letter_open_alone(browser, inside, run):
    for path in ("/versions/tiny/2/report", f"/requests/{run.request['id']}/letter?language=en"):
        browser.get(inside + path)
        assert browser.get_log("browser") == []
        assert len(browser.page_source) > 1000
