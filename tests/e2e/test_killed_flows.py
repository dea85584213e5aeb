"""The crash matrix: the forget flow killed at every step, and run again, ends as if it had not been."""

import json
import subprocess
import sys

import pytest

from sau.data.demo import demo_people
from tests.small_line import PERSON, options

pytestmark = [pytest.mark.crash, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def killed(copy_checkout, tmp_path_factory):
    """A small line's checkout after the whole matrix, the last cell's stores in place, and what each cell came to."""
    folder = tmp_path_factory.mktemp("killed")
    checkout = copy_checkout(folder / "checkout")
    checkout.sau("bootstrap", *options(folder))
    checkout.sau("request", "submit", "--subject", PERSON)
    (folder / "kept").mkdir()
    command = [sys.executable, "tests/e2e/killed_flows.py", str(folder / "kept")]
    done = subprocess.run(command, cwd=checkout.path, env=checkout.env(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    return checkout, json.loads(done.stdout)


def test_a_flow_killed_at_any_step_ends_as_the_uninterrupted_one(killed):
    found = dict(killed[1])
    right, bootstrapped = found.pop("uninterrupted"), found.pop("bootstrap")
    assert bootstrapped == {"tag": "second@v1", "state": right}
    assert right["leader"][:2] == ["tiny@v2", "PASS"]
    assert right["request"] == ["forgotten", 2, "PASS"]
    assert (right["versions"], right["models"], right["worktrees"]) == ([2, 1], 3, 0)
    assert [right["running"], right["running_flows"], right["work"]] == [[], [], []]
    assert len(found) > 12
    assert {name: after for name, after in found.items() if after != right} == {}


def test_who_was_forgotten_does_not_come_back_with_an_older_champion(killed):
    checkout, _ = killed
    said = checkout.sau("line", "set-champion", "tiny", "1").stdout
    (first,) = json.loads(checkout.sau("request", "list", "--json").stdout)
    assert (first["state"], first["in_force"]) == ("forgotten", False)
    assert f"not in force on it: {first['id']}" in said
    second = json.loads(checkout.sau("request", "submit", "--subject", "demo-0003", "--json").stdout)
    outcome = json.loads(checkout.sau("forget", "--reference", "--json").stdout)
    assert (outcome["tag"], outcome["verdict"], outcome["champion"]) == ("tiny@v3", "PASS", True)
    assert set(outcome["requests"]) == {first["id"], second["id"]}
    held = json.loads(checkout.sau("request", "list", "--json").stdout)
    assert [(row["state"], row["in_force"], row["version"]) for row in held] == [("forgotten", True, 3)] * 2
    listing = "import sys; from tasks.requests import training_shards; print(*training_shards(sys.argv[1]))"
    left = checkout.run(sys.executable, "-c", listing, "tiny@v3").stdout.split()
    shard = {person: f"{internal}.jsonl" for person, internal in demo_people().items()}
    assert not {shard[PERSON], shard["demo-0003"]} & set(left)
    assert shard["demo-0004"] in left
