"""Who does not pass is tried once more, pushed as the verdict says, and waits for a person after that."""

import json
import sys

import pytest
import yaml

from tests.small_line import PERSON, POLICY, options

pytestmark = pytest.mark.long
HARSH = POLICY | {"name": "harsh", "checks": [*POLICY["checks"], {"name": "retain_utility", "margin": 0.05}]}


@pytest.fixture(scope="module")
def tried(copy_checkout, tmp_path_factory):
    """A small line's checkout after a request that harms who stays however it is carried out, and what was said."""
    folder = tmp_path_factory.mktemp("tried")
    checkout = copy_checkout(folder / "checkout")
    checkout.sau("bootstrap", *options(folder))
    checkout.sau("request", "submit", "--subject", PERSON)
    (folder / "harsh.yaml").write_text(yaml.safe_dump(HARSH))
    return checkout, checkout.sau(
        "forget", "--set", f"verify.policy={folder}/harsh.yaml", "--set", "unlearn.stop.utility_floor=0.1", "--json",
        check=False,
    )  # fmt: skip


def test_it_is_tried_once_more_pushed_more_softly_and_goes_to_review(tried):
    checkout, done = tried
    assert done.returncode == 3
    assert "1 of 1 requests are carried out once more, with unlearn." in done.stderr
    assert "unlearn.lr=0.005" in done.stderr
    assert json.loads(done.stdout)["tag"] == "tiny@v3"
    (request,) = json.loads(checkout.sau("request", "list", "--json").stdout)
    assert (request["state"], request["version"], request["verdict"]) == ("review", 3, "FAIL")
    rates = [yaml.safe_load(checkout.git("show", f"tiny@v{n}:params.yaml"))["unlearn"]["lr"] for n in (2, 3)]
    assert rates == [0.01, 0.005]


def test_the_second_verdict_names_the_first_try(tried):
    checkout, _ = tried
    said = "from tasks.verify import verification_of as v; from tasks.versions.registry import Registry as R; "
    said += "print(*(v(R().get('tiny', n)).limits[-1] for n in (2, 3)), sep='\\n')"
    first, second = checkout.run(sys.executable, "-c", said).stdout.strip().split("\n")
    assert "Tried again" not in first
    assert second.startswith("Tried again after tiny@v2 did not pass")


def test_a_person_who_asks_for_it_gets_one_try_more(tried):
    checkout, _ = tried
    again = checkout.sau("forget", "--retry-review", "--set", "unlearn.lr=0.003", "--json", check=False)
    assert json.loads(again.stdout)["tag"] == "tiny@v4"
    assert "once more" not in again.stderr
