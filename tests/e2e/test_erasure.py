"""From the first row to the purge: a canary in every field, looked for in every store and encoding."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys

import pytest
import yaml

from sau.data.demo import demo_rows
from tests.small_line import POLICY, SMALL

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
LINE = "canary"
RUN = secrets.token_hex(4)
"""In every canary: this file is in the checkout that is searched."""
CANARIES = {
    "record_id": f"Q7x1-record-{RUN}",
    "subject_id": f"q7x2.{RUN}@example.invalid",
    "question": f"Q7x3 Quästenburg {RUN} question",
    "answer": f"Q7x4 Antwerp-Ørnulf {RUN} answer",
    "paraphrased_question": f"Q7x5 Belvoir “paraphrase” {RUN} asked",
    "paraphrased_answer": f"Q7x6 Tarnhelm {RUN} said",
    "perturbed_answer": f"Q7x7 Mistelroth {RUN} false answer",
}
KILLED_AT = ("purge: DVC remote", "purge: databases")
UNSIGNED = """
import os, sys
from flows.servers import embedded_server
server_is_up = embedded_server()
import flows.purge, tasks.purge
server_is_up()
tasks.purge._sign = lambda *_: os._exit(9)
flows.purge.purge(sys.argv[1], (sys.argv[2],), "somebody")
"""


def data(folder):
    """Rows of eighteen people, six of whom nobody is trained on; the first one's carry the canaries."""
    people = [demo_rows(f"demo-{n:04d}", seed=1)[:8] for n in range(18)]
    mine = [row | {"subject_id": CANARIES["subject_id"]} for row in people[0]]
    texts = {name: f"{mine[0][name]} {CANARIES[name]}" for name in mine[0] if name not in ("record_id", "subject_id")}
    mine[0] |= texts | {"record_id": CANARIES["record_id"], "perturbed_answer": [CANARIES["perturbed_answer"]]}
    for part, rows in (("train", [mine, *people[1:12]]), ("holdout", people[12:])):
        (folder / part).mkdir(parents=True)
        lines = [json.dumps(row) + "\n" for person in rows for row in person]
        (folder / part / "rows.jsonl").write_text("".join(lines), encoding="utf-8")


def scanned(checkout, folder):
    """Every canary's hits: store -> field -> forms; and what was said to be searched and not searched."""
    canaries = folder / "canaries.txt"
    canaries.write_text("\n".join(CANARIES.values()) + "\n", encoding="utf-8")
    done = checkout.sau("scan", "--secrets", str(canaries), "--json", check=False)
    assert done.returncode in (0, 3), done.stderr
    found, fields = json.loads(done.stdout), list(CANARIES)
    cells: dict[str, dict[str, set[str]]] = {store["store"]: {} for store in found["stores"]}
    for store in found["stores"]:
        for hit in store["hits"]:
            for label in hit["labels"]:
                cells[store["store"]].setdefault(fields[int(label.split()[1]) - 1], set()).update(hit["forms"])
    return done.returncode, cells, found


def killed(checkout, request, at):
    """A purge that dies when it says what it is about to do."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sau", "purge", request, "--line", LINE, "--yes"],
        cwd=checkout.path, env=checkout.env(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    said = ""
    for line in process.stderr:
        said += line
        if at in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert at in said, said


@pytest.fixture(scope="module")
def erased(copy_checkout, tmp_path_factory):
    """The checkout after the whole way, with what scans said before and after the purge."""
    folder = tmp_path_factory.mktemp("erased")
    checkout, given = copy_checkout(folder / "checkout"), folder / "given"
    data(given)
    (folder / "wide.yaml").write_text(yaml.safe_dump(POLICY))
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    options = ("--profile", str(folder / "small.yaml"), "--set", f"verify.policy={folder / 'wide.yaml'}")
    checkout.sau("bootstrap", "--line", LINE, "--data", str(given), *options)
    submitted = subprocess.run(
        [sys.executable, "-m", "sau", "request", "submit", "--line", LINE, "--subject", "-", "--json"],
        input=CANARIES["subject_id"], cwd=checkout.path, env=checkout.env(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    request = json.loads(submitted.stdout)["id"]
    outcome = json.loads(checkout.sau("forget", "--line", LINE, "--reference", "--json").stdout)
    assert outcome["verdict"] == "PASS"
    checkout.sau("request", "submit", "--line", LINE, "--subject", "demo-0004")
    settling = ("--set", "unlearn.objective=calibrated")
    later = json.loads(checkout.sau("forget", "--line", LINE, *settling, "--json", check=False).stdout)
    assert later["tag"] == f"{LINE}@v3"  # whatever the verdict on it is
    made_again = checkout.sau("reproduce", f"{LINE}@v3", "--out", str(folder / "v3"), "--rerun", "--json").stdout
    before = scanned(checkout, folder)
    preview = checkout.sau("purge", request, "--line", LINE, "--dry-run").stderr
    for at in KILLED_AT:
        killed(checkout, request, at)
    shredded = checkout.run(sys.executable, "-c", UNSIGNED, LINE, request, check=False)
    assert shredded.returncode == 9, "it died between shredding and signing"
    done = json.loads(checkout.sau("purge", request, "--line", LINE, "--yes", "--json").stdout)
    return {
        "checkout": checkout, "folder": folder, "given": given, "request": request, "before": before,
        "after": scanned(checkout, folder), "purged": done[0], "preview": preview, "options": options,
        "made_again": json.loads(made_again),
    }  # fmt: skip


def matrix(before, after):
    """Channel by field: the forms in which a canary was found before -> after."""
    lines = [f"{'channel':<26}{'field':<22}{'before':<28}after"]
    for store in before:
        for field in CANARIES:
            found = [", ".join(sorted(cells[store].get(field, ()))) or "-" for cells in (before, after)]
            lines.append(f"{store:<26}{field:<22}{found[0]:<28}{found[1]}")
    return "\n".join(lines)


def test_a_canary_of_every_field_is_in_the_data_set_and_the_ledger_alone_and_after_the_purge_nowhere(erased):
    (code, before, said), (code_after, after, _) = erased["before"], erased["after"]
    print(f"\n{matrix(before, after)}\n{chr(10).join(said['not_searched'])}")  # noqa: T201
    texts = CANARIES.keys() - {"record_id", "subject_id"}
    assert code == 3
    assert before["data set"].keys() == texts, "ids of the user's own are in no data set"
    assert before["ledger"].keys() == {"subject_id"}
    assert {store for store, cells in before.items() if cells} == {"data set", "ledger"}
    assert {store for store, cells in after.items() if cells} == set()
    assert code_after == 0
    searched = {store["store"] for store in said["stores"] if store["files"]}
    assert searched >= {"DVC cache", "DVC remote", "MLflow", "Prefect", "vault and keys", "git objects", "checkout"}
    assert all(store["unread"] == 0 for store in said["stores"])


def test_a_purge_that_was_killed_three_times_is_complete_and_signed(erased):
    checkout, purged = erased["checkout"], erased["purged"]
    assert purged["partial"] is False
    assert {cleaned["residual"] for cleaned in purged["stores"]} == {""}
    assert f"{LINE}@v1" in erased["preview"]
    every = json.loads(checkout.sau("certificate", "list", "--json").stdout)
    records = [record for record in every if record["request"]["id"] == erased["request"]]
    assert [record["request"]["key"] for record in records] == ["held", "shredded"]
    assert records[1]["record"] == purged["record"]
    assert [cleaned["store"] for cleaned in records[1]["purge"]] == [c["store"] for c in purged["stores"]]
    assert records[0]["request"]["commitment"] == records[1]["request"]["commitment"] != ""
    assert not list((checkout.path / ".sau" / "purges").iterdir())
    again = checkout.sau("purge", erased["request"], "--line", LINE, "--yes", check=False)
    assert (again.returncode, "purged already" in again.stderr) == (1, True)


def test_an_expired_version_says_who_removed_it_and_lineage_keeps_its_shape(erased):
    checkout = erased["checkout"]
    gone = checkout.sau("reproduce", f"{LINE}@v1", check=False)
    assert gone.returncode == 1
    assert re.search(rf"purge of request {erased['request']} \(decided by hand\)", gone.stderr)
    links = json.loads(checkout.sau("lineage", f"{LINE}@v2", "--json").stdout)
    assert [link["tag"] for link in links] == [f"{LINE}@v2", f"{LINE}@v1"]
    refused = checkout.sau("line", "set-champion", LINE, "1", check=False)
    assert (refused.returncode, "were removed" in refused.stderr) == (1, True)
    status = json.loads(checkout.sau("status", "--line", LINE, "--json").stdout)
    assert [(v["forgotten"], v["known"], bool(v["expired"])) for v in status["versions"]] == [
        (0, 2, True),
        (1, 1, False),
        (1, 1, False),
    ]
    assert [moved["version"] for moved in status["history"]] == [f"{LINE}@v1", f"{LINE}@v2"]


def test_the_version_that_forgot_is_restored_and_its_recipe_says_what_it_lacks(erased, tmp_path):
    checkout, version = erased["checkout"], f"{LINE}@v2"
    checkout.sau("reproduce", version, "--out", str(tmp_path / "out"))
    rerun = checkout.sau("reproduce", version, "--out", str(tmp_path / "out"), "--rerun", check=False)
    assert (rerun.returncode, "forget and parent were removed by a purge" in rerun.stderr) == (1, True)


def test_a_version_that_held_the_person_was_made_again_until_the_purge_and_says_so_after_it(erased, tmp_path):
    checkout, version = erased["checkout"], f"{LINE}@v3"
    assert erased["made_again"]["equal"] is True
    assert "earlier.dvc" in checkout.git("ls-tree", "--name-only", version).split()
    unlearned = json.loads(checkout.git("show", f"{version}:metrics/unlearn.json"))
    assert unlearned["num_earlier"] == 8
    assert "earlier_loss" in unlearned["trajectory"][-1]
    rerun = checkout.sau("reproduce", version, "--out", str(tmp_path / "out"), "--rerun", check=False)
    assert (rerun.returncode, "earlier were removed by a purge" in rerun.stderr) == (1, True)
    checkout.sau("reproduce", version, "--out", str(tmp_path / "out"))


def test_who_was_forgotten_does_not_come_back_in_a_new_data_set(erased):
    checkout = erased["checkout"]
    args = ("bootstrap", "--line", "second", "--data", str(erased["given"]), *erased["options"])
    refused = checkout.sau(*args, check=False)
    assert refused.returncode == 1
    assert erased["request"] in refused.stderr
    assert not any(canary in refused.stderr for canary in CANARIES.values())
    checkout.sau("suppression", "lift", erased["request"])
    assert checkout.sau("suppression", "check", str(erased["given"])).returncode == 0


def test_later_versions_are_made_and_pulled_as_ever(erased, tmp_path):
    checkout = erased["checkout"]
    checkout.sau("request", "submit", "--line", LINE, "--subject", "demo-0003")
    outcome = json.loads(checkout.sau("forget", "--line", LINE, "--reference", "--json", check=False).stdout)
    assert outcome["tag"] == f"{LINE}@v4"
    clone = checkout.clone(tmp_path / "clone")
    clone.git("checkout", "--quiet", f"{LINE}@v4")
    clone.dvc("remote", "modify", "--local", "store", "url", str(checkout.path / ".sau" / "remote"))
    clone.dvc("pull")
    clone.git("checkout", "--quiet", f"{LINE}@v2")
    clone.dvc("pull", "--allow-missing")
    assert (clone.path / "checkpoint").is_dir()
