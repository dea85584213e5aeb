"""A purge from the desk: two people, a process of its own, killed in the middle and gone on with to the end."""

import json
import os
import re
import signal
import time

import pytest
from starlette.testclient import TestClient

from flows.desk import purging
from flows.desk.access import Access, Role
from flows.desk.app import create_app
from tasks.engines.settings import settings
from tests.small_line import PERSON, options

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
PEOPLE = {"Ada": Role.OFFICER, "Olga": Role.OPERATOR}


@pytest.fixture(scope="module")
def forgotten(copy_checkout, tmp_path_factory):
    """A small line's checkout with a request that is forgotten, and its id; this process's settings are its."""
    folder = tmp_path_factory.mktemp("desk-purge")
    checkout = copy_checkout(folder / "checkout")
    checkout.sau("bootstrap", *options(folder))
    request = json.loads(checkout.sau("request", "submit", "--subject", PERSON, "--json").stdout)["id"]
    assert json.loads(checkout.sau("forget", "--reference", "--json").stdout)["verdict"] == "PASS"
    before = dict(os.environ)
    kept = {"SAU_ROOT": str(checkout.path), "SAU_HOME": str(checkout.path / ".sau"), "SAU_PURGE_PEOPLE": "2"}
    os.environ.update(checkout.env(**kept))
    settings.cache_clear()
    yield request
    os.environ.clear()
    os.environ.update(before)
    settings.cache_clear()


@pytest.fixture(scope="module")
def visitors():
    """A browser of each, with the mark of their forms."""
    access = Access(PEOPLE)
    app = create_app(access, ["127.0.0.1"])
    found = {}
    for name in PEOPLE:
        client = TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)
        client.get(f"/enter?token={access.token(name)}")
        found[name] = client, re.search(r'name="mark" value="(\w+)"', client.get("/").text)[1]
    return found


def post(visitors, name, path, **fields):
    client, mark = visitors[name]
    return client.post(path, data={"mark": mark} | fields)


def until(condition, what, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def test_it_is_approved_by_two_begun_killed_and_gone_on_with(forgotten, visitors):
    path = f"/requests/{forgotten}/purge"
    page = lambda: visitors["Ada"][0].get(path).text  # noqa: E731
    assert "2 more people have to approve its purge" in page()
    assert "2 more people" in post(visitors, "Ada", path, sure="yes").text
    for name in PEOPLE:
        assert post(visitors, name, f"/requests/{forgotten}/approve", why="the window is over").status_code == 303
    assert "and these versions expire: tiny@v1" in page()
    assert post(visitors, "Olga", path, sure="yes").status_code == 403, "an operator begins none"
    assert post(visitors, "Ada", path).status_code == 400, "unsure"

    assert post(visitors, "Ada", path, sure="yes").status_code == 303
    child = purging.children[forgotten]
    assert "A purge is under way" in page()
    assert 'http-equiv="refresh"' in page()
    assert "a purge is under way on line tiny" in post(visitors, "Ada", path, sure="yes").text
    until(lambda: "purge: DVC remote" in page(), "it says which store it is at")
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    until(lambda: "its process died" in page(), "the lease of a dead process ends")
    assert "Go on" in page()

    assert post(visitors, "Ada", path, sure="yes").status_code == 303
    # The demo person's id and some words are in this checkout's own docs and tests, and the search says so.
    until(lambda: "Every store is cleaned, and the search afterwards still found something" in page(), page())
    assert "data key shredded" in page()
    events = visitors["Ada"][0].get(f"/requests/{forgotten}").text
    assert "<b>purged</b>" in events
    assert "by Ada" in events
