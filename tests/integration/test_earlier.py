"""Who was forgotten earlier on a line is judged again on a later version, as long as their rows are held."""

import json
import sys

import pytest

JUDGED = """
import json
from sau.data.demo import demo_rows
from sau.data.sets import Sets
from sau.params import load_params
from tasks.earlier import judged_again
from tasks.engines.keys import vault
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace
from tests.integration.broken_stores import begin, finish_attempt, prepare, requests

prepare()
begin(["tiny"])
finish_attempt("tiny", "PASS")
(request,) = requests("tiny")
rows = [demo_rows(f"judge-{n}", seed=1)[:3] for n in range(25)]
sets = Sets(demo_rows("second", seed=1)[:3], demo_rows("stays", seed=1)[:3], [row for own in rows for row in own])
ws = Workspace("attempt")
params = load_params(ws.path / "params.yaml")


def found(parent):
    tracking = Tracking()
    with tracking.run("tiny", "forget") as run_id:
        again = judged_again(tracking, Attempt("tiny", "attempt", run_id), parent, params, sets, None)
    return [(person.label == request.id, person.num_records, [check.id for check in person.checks]) for person in again]


vault().seal(request.id, demo_rows("first", seed=1)[:4])
said = {"held": found(2), "first": found(1)}
vault().shred(request.id)
print(json.dumps(said | {"shredded": found(2)}))
"""


@pytest.mark.long
def test_who_was_forgotten_is_judged_again_as_long_as_the_rows_are_held(copy_checkout, tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    found = json.loads(checkout.run(sys.executable, "-c", JUDGED).stdout.splitlines()[-1])
    assert found == {
        "held": [[True, 4, ["residual_knowledge", "other_forms"]]],
        "first": [],  # a first version has forgotten nobody
        "shredded": [],
    }
