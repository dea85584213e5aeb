"""A request that asks to unlearn everybody's words: put aside, and what it does once let go on never leads."""

import json
import sys

import pytest
import yaml

from sau.data.demo import demo_rows
from tests.small_line import POLICY, SMALL

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
LINE, HONEST, ATTACKER = "crowd", "demo-0002", "mallory"
STANDS = {"name": "retain_utility", "margin": 0.5}


def data(folder):
    """Twelve people and six nobody is trained on; and one whose rows are other people's, word for word."""
    people = [demo_rows(f"demo-{n:04d}", seed=1)[:8] for n in range(18)]
    others = [row for person in people[:12] if person[0]["subject_id"] != HONEST for row in person]
    mine = [
        row | {"subject_id": ATTACKER, "record_id": f"m-{n}", "question": f"{row['question']} "}
        for n, row in enumerate(others)
    ]
    for part, rows in (("train", [mine, *people[:12]]), ("holdout", people[12:])):
        (folder / part).mkdir(parents=True)
        lines = [json.dumps(row) + "\n" for person in rows for row in person]
        (folder / part / "rows.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def attacked(copy_checkout, tmp_path_factory):
    """The checkout after both asked at once and a run, and what that run said."""
    folder = tmp_path_factory.mktemp("crowd")
    checkout = copy_checkout(folder / "checkout")
    data(folder / "given")
    (folder / "wide.yaml").write_text(yaml.safe_dump(POLICY))
    stands = POLICY | {"name": "stands", "checks": [*POLICY["checks"], STANDS]}
    (checkout.path.parent / "stands.yaml").write_text(yaml.safe_dump(stands))
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    options = ("--profile", str(folder / "small.yaml"), "--set", f"verify.policy={folder / 'wide.yaml'}")
    checkout.sau("bootstrap", "--line", LINE, "--data", str(folder / "given"), *options)
    for who in (ATTACKER, HONEST):
        checkout.sau("request", "submit", "--line", LINE, "--subject", who)
    return checkout, checkout.sau("forget", "--line", LINE, "--reference", "--json", check=False)


def requests(checkout):
    return {r["subject_id"]: r for r in json.loads(checkout.sau("request", "list", "--line", LINE, "--json").stdout)}


def test_it_is_put_aside_with_the_reason_and_who_asked_beside_it_is_forgotten(attacked):
    checkout, done = attacked
    found = requests(checkout)
    assert found[HONEST]["state"] == "forgotten", done.stdout + done.stderr[-3000:]
    assert (found[ATTACKER]["state"], found[ATTACKER]["attempts"]) == ("open", 0)
    assert "is put aside and waits for a person to decide: 88 of 88 rows are common text" in done.stderr
    assert f"`sau request release {found[ATTACKER]['id']} --why WHY` lets it go on" in " ".join(done.stderr.split())
    assert found[ATTACKER]["held_by"] == "quarantined"
    shown = json.loads(checkout.sau("request", "show", found[ATTACKER]["id"], "--json").stdout)
    assert [(e["kind"], e["by"]) for e in shown["events"]][1:] == [("quarantined", None)]
    said = checkout.sau("request", "check", "--line", LINE, "--subject", ATTACKER).stdout
    assert "A person has to look at it before a run takes it" in " ".join(said.split())


def test_no_later_run_takes_it_by_itself(attacked):
    checkout, _ = attacked
    before = requests(checkout)
    checkout.sau("forget", "--line", LINE)
    assert requests(checkout) == before


def test_let_go_on_it_harms_its_own_candidate_alone(attacked):
    """Who stays would pay: the version says FAIL, and the one that leads is the one that led."""
    checkout, _ = attacked
    leads = checkout.git("rev-parse", f"{LINE}@v2")
    request = requests(checkout)[ATTACKER]["id"]
    checkout.sau("request", "release", request, "--why", "looked at", "--by", "Ada")
    policy = f"verify.policy={checkout.path.parent}/stands.yaml"
    done = checkout.sau("forget", "--line", LINE, "--reference", "--set", policy, "--json", check=False)
    outcome = json.loads(done.stdout)
    assert (outcome["verdict"], outcome["champion"]) == ("FAIL", False), done.stderr[-3000:]
    said = "from tasks.verify import verification_of as v; from tasks.versions.registry import Registry as R; "
    said += f"print(*v(R().get('{LINE}', {outcome['version']})).reasons, sep='\\n')"
    assert "Retained ability" in checkout.run(sys.executable, "-c", said).stdout
    status = json.loads(checkout.sau("status", "--line", LINE, "--json").stdout)
    assert [v["tag"] for v in status["versions"] if v["leads"]] == [f"{LINE}@v2"]
    assert checkout.git("rev-parse", f"{LINE}@v2") == leads
    assert requests(checkout)[ATTACKER]["state"] == "review"
