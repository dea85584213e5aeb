"""What a person sees: the request's pages in MLflow and Prefect, in a real browser."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from uuid import UUID

import pytest

from tests.chromium import opened

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    yield from opened(tmp_path_factory.mktemp("profile"), "--disable-quic", "--window-size=1600,1400")


@pytest.fixture(scope="module")
def pages(run):
    """`sau ui` on the finished run: the addresses of both pages, and what it said."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    command = [
        sys.executable,
        "-u",
        "-m",
        "sau",
        "ui",
        "--mlflow-port",
        str(ports[0]),
        "--prefect-port",
        str(ports[1]),
    ]
    process = subprocess.Popen(command, cwd=run.path, env=run.env(), stdout=subprocess.PIPE, text=True)
    try:
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, "sau ui ended"
            said += line
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", said
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.wait(30)


def see(browser, url, *texts, timeout=60):
    """Open a page and wait until every text is on it."""
    browser.get("about:blank")
    browser.get(url)
    deadline = time.monotonic() + timeout
    missing = texts
    while missing and time.monotonic() < deadline:
        body = browser.execute_script("return document.body ? document.body.innerText : ''")
        missing = [text for text in texts if text not in body]
        time.sleep(0.5)
    assert not missing, f"{url} does not show {missing}"


def run_page(run, pages):
    from mlflow import MlflowClient

    uri = f"sqlite:///{run.path}/.sau/mlflow.db"
    found = MlflowClient(uri, uri).get_run(run.outcome["run_id"])
    return f"{pages[0]}/#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}"


def test_the_requests_run_shows_steps_data_verdict_and_version(run, pages, browser):
    see(
        browser, run_page(run, pages), f"forget {run.request['id']}", "snapshot", "unlearn", "package", "verify",
        "register", "Datasets", "PASS", "Registered models", "v2", "Description", "tiny@v2: PASS",
        "The records are forgotten, as far as this policy can tell. It is the line's champion.",
        "unlearned/forget_probability", "before/forget_probability", "people the model never saw",
    )  # fmt: skip


def test_the_line_opens_on_its_runs(pages, browser):
    """By the address that `sau ui` says; MLflow's other half shows no versions."""
    (address,) = [line.split()[-1] for line in pages[2].splitlines() if line.startswith("MLflow   tiny:")]
    see(browser, address, "Runs", "forget r-", "bootstrap", "Model registry")
    assert "Evaluation runs" not in browser.execute_script("return document.body.innerText")


def test_the_version_page_shows_aliases_source_run_and_tags(run, pages, browser):
    see(
        browser,
        f"{pages[0]}/#/models/tiny/versions/2",
        "Version 2",
        "champion",
        "candidate",
        run.request["id"],
        "checkpoint_md5",
        "tiny@v2: PASS",
        "Residual knowledge",
        "tiny@v2 ← tiny@v1",
        "report.html",
    )


@pytest.mark.parametrize(
    ("artifact", "texts"),
    [
        ("summary.html", ("tiny@v2", "PASS", "forget request", "tiny@v1")),
        ("report.html", ("PASS", "The way there", "densify")),
    ],
)
def test_our_pages_show_inside_the_run(run, pages, browser, artifact, texts):
    from selenium.webdriver.common.by import By

    see(browser, f"{run_page(run, pages)}/artifacts/{artifact}", artifact)
    deadline = time.monotonic() + 30
    body = ""
    while time.monotonic() < deadline and not all(text in body for text in texts):
        time.sleep(0.5)
        frames = browser.find_elements(By.TAG_NAME, "iframe")
        if frames:
            browser.switch_to.frame(frames[0])
            body = browser.execute_script("return document.documentElement.textContent")
            browser.switch_to.default_content()
    assert all(text in body for text in texts), f"{artifact} shows {body[:200]!r}"


def test_the_report_opens_by_itself_and_fits_the_page(run, browser, tmp_path):
    """As it is mailed to somebody: one file, nothing loaded, nothing cut off, nothing beside the page."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{run.path}/.sau/mlflow.db"
    page = MlflowClient(uri, uri).download_artifacts(run.outcome["run_id"], "report.html", str(tmp_path))
    see(browser, f"file://{page}", "PASS", "What was checked", "Residual knowledge", "Strangers", "All numbers")
    measured = browser.execute_script(
        """
        const boxes = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect());
        return {
            plots: boxes.length,
            smallest: Math.min(...boxes.map(b => b.width)),
            wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
            cut: [...document.querySelectorAll('.card')].filter(c => c.scrollWidth > c.clientWidth).length,
            loaded: performance.getEntriesByType('resource').length,
        };
        """
    )
    assert measured["plots"] == 6
    assert measured["smallest"] > 300
    assert (measured["wider"], measured["cut"], measured["loaded"]) == (0, 0, 0)


def test_prefect_shows_the_verdicts_numbers(run, pages, browser):
    with sqlite3.connect(f"file:{run.path}/.sau/prefect/prefect.db?mode=ro", uri=True) as database:
        (card,) = [row[0] for row in database.execute("select id from artifact where key = 'verdict-tiny-v2'")]
    see(
        browser,
        f"{pages[1]}/artifacts/artifact/{UUID(card)}",
        "tiny@v2",
        run.outcome["run_id"],
        "Residual knowledge",
        "Strangers",
    )


def test_prefect_shows_the_flow_runs(run, pages, browser):
    see(browser, f"{pages[1]}/runs", "forget", "bootstrap", "Completed")
