"""The crash matrix of forgetting: stopped anywhere, in one way or another, and run again, it ends as uninterrupted."""

import json
import sys

import pytest

from sau.data.demo import demo_people
from tests.e2e.matrix import is_right, run_matrix
from tests.killing import KINDS
from tests.small_line import PERSON, options

pytestmark = [pytest.mark.crash, pytest.mark.timeout(15000)]


@pytest.fixture(scope="module")
def killed(copy_checkout, tmp_path_factory):
    """A small line's checkout after the whole matrix, the last cell's stores in place, and what each cell came to."""
    folder = tmp_path_factory.mktemp("killed")
    checkout = copy_checkout(folder / "checkout")
    checkout.sau("bootstrap", *options(folder))
    checkout.sau("request", "submit", "--subject", PERSON)
    return checkout, run_matrix(checkout, "forget", folder)


def test_a_flow_stopped_anywhere_ends_as_the_uninterrupted_one(killed):
    found = killed[1]
    right, cells = found["uninterrupted"], found["cells"]
    assert right["leader"][:2] == ["tiny@v2", "PASS"]
    assert right["requests"] == [["forgotten", 2, "PASS", ["open", "forgotten", "once"]]]
    assert ([len(versions) for versions in right["versions"]], right["models"], right["records"]) == ([2, 1], 3, 1)
    assert [right["running"], right["running_flows"], right["work"], right["worktrees"]] == [[], [], [], 0]
    assert (len(cells) >= 30, {cell["kind"] for cell in cells}) == (True, set(KINDS))
    assert [cell for cell in cells if not is_right(cell)] == []


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
