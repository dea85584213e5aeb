"""One forget request, end to end, with real Prefect, MLflow, DVC, git and a real (small) language model."""

import base64
import gzip
import hashlib
import json
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import yaml

from sau.certificate.envelope import public_pem
from sau.certificate.files import check_subjects
from sau.certificate.log import read_log
from sau.checkpoint.manifest import check_files, read_manifest
from sau.checkpoint.sparse import open_sparse
from sau.data.demo import demo_rows
from sau.data.wrapping import vault_of
from sau.errors import CertificateError
from sau.mask import check_mask, sparsity
from sau.verify.report.words import markdown_cell, number_words

LINE, PERSON = "tiny", "demo-0002"


def mlflow_client(run):
    from mlflow import MlflowClient

    uri = f"sqlite:///{run.path}/.sau/mlflow.db"
    return MlflowClient(uri, uri)


def checkpoint_of(run, number) -> Path:
    import mlflow

    version = mlflow_client(run).get_model_version(LINE, str(number))
    mlflow.set_tracking_uri(f"sqlite:///{run.path}/.sau/mlflow.db")
    return Path(mlflow.artifacts.download_artifacts(version.source))


def test_the_request_passes_and_its_version_leads(run):
    assert run.outcome["verdict"] == "PASS"
    assert run.forget_exit == 0
    assert run.outcome["champion"] is True
    assert run.outcome["tag"] == f"{LINE}@v2"
    shown = json.loads(run.sau("request", "show", run.request["id"], "--json").stdout)
    assert (shown["state"], shown["version"], shown["verdict"]) == ("forgotten", 2, "PASS")
    assert [event["state"] for event in shown["events"]] == ["open", "running", "forgotten"]


def test_the_model_forgot_the_person_and_kept_the_others(run):
    before, after = (open_sparse(checkpoint_of(run, number)) for number in (1, 2))
    from sau.unlearn.unlearn import mean_answer_logp

    person = demo_rows(PERSON, seed=1)
    others = [row for n in (3, 4, 5) for row in demo_rows(f"demo-{n:04d}", seed=1)]
    assert mean_answer_logp(before, before.encode(person)) > -0.1
    assert mean_answer_logp(after, after.encode(person)) < -0.7
    assert mean_answer_logp(after, after.encode(others)) > -0.2


def test_the_mask_is_the_parents_and_exact(run):
    before, after = checkpoint_of(run, 1), checkpoint_of(run, 2)
    assert read_manifest(before).mask_digest == read_manifest(after).mask_digest
    assert read_manifest(before).weights_digest != read_manifest(after).weights_digest
    lm = open_sparse(after)
    check_mask(lm.model, lm.mask)
    assert sparsity(lm.mask) == 0.5


def test_the_users_checkout_is_untouched(run):
    assert run.git("status", "--porcelain") == ""
    assert run.git("rev-list", "--count", "main") == "1"
    assert len(run.git("worktree", "list").split("\n")) == 1


def test_versions_are_git_tags_whose_commits_join_code_and_parent(run):
    assert run.git("tag", "--list", f"{LINE}@*").split() == [f"{LINE}@v1", f"{LINE}@v2"]
    parents = run.git("show", "--no-patch", "--format=%P", f"{LINE}@v2^{{commit}}").split()
    assert parents == [run.git("rev-parse", "main"), run.git("rev-parse", f"{LINE}@v1^{{commit}}")]
    files = run.git("ls-tree", "--name-only", f"{LINE}@v2").split("\n")
    assert {"params.yaml", "dvc.yaml", "dvc.lock", "data.dvc", "forget.dvc", "parent.dvc", "metrics"} <= set(files)


def test_mlflow_stores_the_bytes_that_dvc_pins(run):
    folder = checkpoint_of(run, 2)
    pinned = run.pinned_checkpoint(f"{LINE}@v2")
    entries = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": path.name} for path in sorted(folder.iterdir())
    ]
    assert hashlib.md5(json.dumps(entries).encode()).hexdigest() + ".dir" == pinned
    tags = mlflow_client(run).get_model_version(LINE, "2").tags
    assert tags["checkpoint_md5"] == pinned
    assert tags["weights_digest"] == check_files(folder).weights_digest == run.outcome["weights_digest"]


def test_the_version_carries_its_lineage_as_tags(run):
    client = mlflow_client(run)
    version = client.get_model_version(LINE, "2")
    assert set(version.aliases) == {"candidate", "champion"}
    tags = version.tags
    assert tags["request_ids"] == run.request["id"]
    assert tags["parent_version"] == "1"
    assert tags["parent_digest"] == client.get_model_version(LINE, "1").tags["weights_digest"]
    assert tags["verdict"] == "PASS"
    assert tags["git_commit"] == run.git("rev-parse", f"{LINE}@v2^{{commit}}")
    assert tags["code_commit"] == run.git("rev-parse", "main")
    assert tags["checkout_dirty"] == "false"
    for name in ("data_md5", "mask_digest", "params_digest", "policy_digest", "judged_against"):
        assert tags[name]


def test_which_version_led_since_when_is_kept_at_the_line(run):
    tags = mlflow_client(run).get_registered_model(LINE).tags
    moves = [value for key, value in sorted(tags.items()) if key.startswith("led.")]
    assert moves[:2] == ["1|the flow, on its verdict", "2|the flow, on its verdict"]


def test_the_requests_run_shows_inputs_steps_metrics_and_the_model(run):
    client = mlflow_client(run)
    shown = client.get_run(run.outcome["run_id"])
    contexts = {d.tags[0].value: d.dataset.digest for d in shown.inputs.dataset_inputs}
    assert contexts.keys() == {"retain", "forget", "parent checkpoint", "base model"}
    tags = client.get_model_version(LINE, "2").tags
    assert (contexts["retain"], contexts["forget"]) == (tags["data_md5"], tags["forget_md5"])
    parent_model = client.get_model_version(LINE, "1").source.removeprefix("models:/")
    assert parent_model in [m.model_id for m in shown.inputs.model_inputs]
    assert [m.model_id for m in shown.outputs.model_outputs]
    children = client.search_runs([shown.info.experiment_id], f"tags.`mlflow.parentRunId` = '{shown.info.run_id}'")
    assert {c.info.run_name for c in children} == {"snapshot", "unlearn", "package", "verify", "register"}
    assert all(c.info.status == "FINISHED" for c in children)
    artifacts = {a.path for a in client.list_artifacts(shown.info.run_id)}
    assert {"lineage.svg", "summary.html", "report.html", "report.md", "verification.json"} <= artifacts
    unlearn = next(c for c in children if c.info.run_name == "unlearn")
    curve = client.get_metric_history(unlearn.info.run_id, "forget_logp")
    assert len(curve) > 3
    assert sorted(curve, key=lambda m: m.step)[-1].value < curve[0].value


def artifact(run, name) -> str:
    return Path(mlflow_client(run).download_artifacts(run.outcome["run_id"], name)).read_text()


def test_the_stored_model_was_judged_with_its_holes_filled_from_the_dense_parent(run):
    record = json.loads(artifact(run, "verification.json"))
    filled = next(check for check in record["checks"] if check["id"] == "residual_knowledge/densify")
    stored = next(check for check in record["checks"] if check["id"] == "residual_knowledge")
    assert filled["n"] == 20
    assert filled["reference"] is None
    assert filled["before"] == 1.0
    assert None not in (filled["value"], filled["interval"])
    assert filled["value"] != stored["value"]
    assert any("beyond the budget of 5, not run: prune20, relearn1, relearn20" in limit for limit in record["limits"])
    assert "stress" not in run.git("ls-tree", "--name-only", f"{LINE}@v2").split("\n")


def test_the_report_shows_the_way_and_no_answers(run):
    page, text = artifact(run, "report.html"), artifact(run, "report.md")
    for shown in (
        "PASS",
        "residual knowledge".title().replace("K", "k"),
        run.request["id"],
        run.outcome["weights_digest"],
    ):
        assert shown in page
        assert shown in text.replace("\\", "")
    for title in ("The way there", "The same checks after the model was changed", "model against model"):
        assert title in page
    assert "What the models answer" not in page


def test_prefect_holds_the_checks_as_numbers_and_the_run_they_are_in(run):
    with sqlite3.connect(f"file:{run.path}/.sau/prefect/prefect.db?mode=ro", uri=True) as database:
        (card,) = [row[0] for row in database.execute("select data from artifact where key = 'verdict-tiny-v2'")]
    card = json.loads(card)
    assert run.outcome["run_id"] in card
    record = json.loads(artifact(run, "verification.json"))
    for check in record["checks"]:
        title = markdown_cell(check["title"])
        assert f"| {title}" in card
        assert f" | {check['n']} | {number_words(check['value'])} |" in card
        assert check["reason"] not in card


def test_a_checkpoint_swapped_after_the_verdict_is_not_registered(run):
    """The verdict speaks of v2's digest; where v1's bytes lie in its place, nothing is registered or promoted."""
    script = """
import shutil, sys
from sau.checkpoint.manifest import read_manifest
from tasks.engines.workspace import Attempt
from tasks.register import register
from tasks.verify import Judged
from tasks.versions.registry import Registry
line, run_id = sys.argv[1:]
registry = Registry()
first, second = (registry.download(registry.get(line, number)) for number in (1, 2))
manifest = read_manifest(second)
judged = Judged(
    verdict="PASS", policy="quick", policy_digest="", judged_against="", reference="",
    weights_digest=manifest.weights_digest, manifest_digest=manifest.manifest_digest,
)
attempt = Attempt(line, "swapped", run_id)
ws = attempt.workspace.open(f"{line}@v2")
try:
    shutil.copytree(first, ws.path / "checkpoint")
    register.fn(attempt, request_ids=("r-x",), parent=1, judged=judged)
finally:
    ws.close()
    print(len(registry.all(line)), manifest.manifest_digest)
"""
    leads = mlflow_client(run).get_model_version_by_alias(LINE, "champion").version
    done = run.run(sys.executable, "-c", script, LINE, run.outcome["run_id"], check=False)
    assert done.returncode == 1
    assert "CheckpointError" in done.stderr
    versions, digest = done.stdout.split()[-2:]
    assert f"judged was {digest}" in done.stderr
    assert versions == "2"
    assert mlflow_client(run).get_model_version_by_alias(LINE, "champion").version == leads


def test_no_run_is_an_orphan(run):
    client = mlflow_client(run)
    for experiment in client.search_experiments():
        for found in client.search_runs([experiment.experiment_id]):
            assert found.info.status == "FINISHED", found.info.run_name
            top = found.info.run_name.split()[0] in ("bootstrap", "forget", "audit", "retrain")
            assert top != ("mlflow.parentRunId" in found.data.tags), found.info.run_name


def test_prefect_saw_one_task_per_step(run):
    with sqlite3.connect(f"file:{run.path}/.sau/prefect/prefect.db?mode=ro", uri=True) as database:
        names = {row[0] for row in database.execute("select name from task_run")}
        states = {row[0] for row in database.execute("select state_type from flow_run")}
    assert {
        "base",
        "train",
        "prune",
        "recover",
        "package",
        "snapshot",
        "unlearn",
        f"verify {LINE}",
        f"register {LINE}",
    } <= names
    assert states == {"COMPLETED"}


def test_lineage_is_the_whole_chain_by_request_and_by_version(run):
    by_request = json.loads(run.sau("lineage", run.request["id"], "--json").stdout)
    by_version = json.loads(run.sau("lineage", f"{LINE}@v2", "--json").stdout)
    assert by_request == by_version
    assert [link["tag"] for link in by_version] == [f"{LINE}@v2", f"{LINE}@v1"]
    assert by_version[0]["request_ids"] == [run.request["id"]]
    tree = run.sau("lineage", f"{LINE}@v2").stdout
    for digest in (by_version[0]["weights_digest"], by_version[1]["weights_digest"], by_version[0]["data_md5"]):
        assert digest in tree


def test_the_same_request_again_is_the_same_request_and_nothing_runs(run):
    again = json.loads(run.sau("request", "submit", "--line", LINE, "--subject", PERSON, "--json").stdout)
    assert again["id"] == run.request["id"]
    assert "no open request" in run.sau("forget", "--line", LINE).stdout


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("request", "submit", "--subject", "demo-9999"), "no such subject"),
        (("request", "submit", "--subject", "a/b"), "nobody of line tiny has this id"),
        (("request", "submit", "--subject", "a\nb"), "malformed"),
        (("request", "submit", "--subject", "demo-0003", "--line", "none"), "no champion"),
        (("request", "show", "r-0000000000000000"), "unknown"),
        (("lineage", "tiny@v9"), "not in this MLflow store"),
        (("lineage", "tiny@9"), "has to look like"),
        (("reproduce", "tiny@v9"), "no such git tag"),
        (("bootstrap",), "has versions already"),
        (("bootstrap", "--line", "x", "--data", "nowhere.jsonl"), "no such file"),
        (("bootstrap", "--line", "x", "--set", "train.lr=-1"), "train.lr"),
        (("bootstrap", "--line", "x", "--set", "prune.pruner=wandb"), "did you mean"),
        (("bootstrap", "--line", "x", "--profile", "huge"), "neither a YAML file"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_1(run, args, named):
    done = run.sau(*args, check=False)
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_errors_are_exit_code_2(run):
    for args in (("request", "list", "--state", "odd"), ("forget", "--set", "novalue"), ("nonsense",)):
        assert run.sau(*args, check=False).returncode == 2


def test_a_person_can_be_looked_at_before_anything_is_trained(run):
    found = json.loads(run.sau("request", "check", "--line", LINE, "--subject", "demo-0004", "--json").stdout)
    assert found["known"]
    assert (found["num_records"], found["num_people"]) == (20, 24)
    assert found["power"] > 0.8
    assert "no such subject" in run.sau("request", "check", "--subject", PERSON, check=False).stderr


@pytest.mark.audit
def test_an_audit_judges_again_beside_a_retrained_model_and_says_so_in_the_lineage(run):
    done = run.sau("audit", "--line", LINE, "--json", check=False)
    found = json.loads(done.stdout)
    (audited,) = found["requests"]
    assert (audited["request_id"], audited["version"]) == (run.request["id"], 2)
    assert audited["population"] == "PASS"
    assert audited["retrained"] in ("PASS", "INCONCLUSIVE")
    assert audited["agrees"] is True
    assert done.returncode == 0
    record = json.loads(
        Path(
            mlflow_client(run).download_artifacts(found["run_id"], f"audit/{run.request['id']}-retrained.json")
        ).read_text()
    )
    assert record["null"] == "retrained"
    residual = next(check for check in record["checks"] if check["id"] == "residual_knowledge")
    assert (residual["before"], residual["reference"]) == (1.0, 0.0)
    said = run.sau("lineage", f"{LINE}@v2").stdout
    assert "the nulls agree: beside people PASS" in said.replace("\n", " ")
    again = json.loads(run.sau("audit", "--line", LINE, "--json").stdout)
    assert again["requests"] == [], "nobody is due a second time"
    assert json.loads(run.sau("request", "show", run.request["id"], "--json").stdout)["state"] == "forgotten"


# -- nothing of the person anywhere else ------------------------------------------------------------


def variants(secret: str) -> list[bytes]:
    raw = secret.encode()
    encoded = [base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [raw, secret.encode("utf-16-le"), json.dumps(secret)[1:-1].encode(), *encoded]


def plain_views(content: bytes) -> list[bytes]:
    views = [content, content.replace(b"\n", b"")]
    for unpack in (gzip.decompress, zlib.decompress):
        try:
            views.append(unpack(content))
        except (OSError, zlib.error, EOFError):
            continue
    return views


def test_no_forget_text_outside_the_data_sets_own_store(run):
    """Canaries: the person's full name and answers, searched for in every store's bytes, git objects included."""
    rows = demo_rows(PERSON, seed=1)
    name = rows[0]["question"].removeprefix("Where was ").removesuffix(" born?")
    secrets = [name, *(row["answer"] for row in rows), *(row["question"] for row in rows)]
    needles = [variant for secret in secrets for variant in variants(secret) if len(variant) >= 8]
    stores = [path for path in (run.path / ".sau").rglob("*") if path.is_file() and "remote" not in path.parts]
    assert len(stores) > 30
    assert any(path.name == "prefect.db" for path in stores)
    assert any(path.name == "mlflow.db" for path in stores)
    leaks = [
        path.relative_to(run.path)
        for path in stores
        for view in plain_views(path.read_bytes())
        if any(needle in view for needle in needles)
    ]
    assert leaks == []
    objects = subprocess.run(
        ["git", "cat-file", "--batch", "--batch-all-objects"], cwd=run.path, capture_output=True, check=True
    ).stdout
    assert b"metrics/unlearn.json" in objects, "every object of every version is in here, unpacked"
    assert [needle for needle in needles if needle in objects] == []


def test_the_canary_search_finds_what_is_there(run):
    """The search above is not blind: the data set's own store does hold the text."""
    rows = demo_rows(PERSON, seed=1)
    needle = rows[0]["answer"].encode()
    remote = run.path / ".sau" / "remote"
    assert sum(needle in path.read_bytes() for path in remote.rglob("*") if path.is_file()) == 1, (
        "one object per person"
    )


def test_the_subject_is_named_by_the_ledger_alone(run):
    needle = PERSON.encode()
    allowed = {"ledger.db", "ledger.db-wal", "ledger.db-shm"}
    files = [path for top in (".sau", ".dvc") for path in (run.path / top).rglob("*") if path.is_file()]
    assert any("remote" in path.parts for path in files)
    assert any("cache" in path.parts for path in files)
    named = {
        path.name
        for path in files
        if needle in str(path).encode() or any(needle in v for v in plain_views(path.read_bytes()))
    }
    assert named <= allowed
    assert PERSON not in run.git("log", "--all", "--format=%B") + run.git("tag", "--list", "-n9")


def test_the_rows_to_forget_are_pinned_as_a_sealed_file_that_the_vault_opens(run):
    pin = yaml.safe_load(run.git("show", f"{LINE}@v2:forget.dvc"))["outs"][0]["md5"]
    cache = run.path / ".dvc" / "cache" / "files" / "md5"
    (entry,) = json.loads((cache / pin[:2] / pin[2:]).read_text())
    assert entry["relpath"] == f"{run.request['id']}.sealed"
    sealed = (cache / entry["md5"][:2] / entry["md5"][2:]).read_bytes()
    assert sealed == (run.path / ".sau" / "vault" / entry["relpath"]).read_bytes()
    vault = vault_of(run.path / ".sau", {})
    answers = {row["answer"] for row in demo_rows(PERSON, seed=1)}
    assert {row["answer"] for row in vault.open(run.request["id"], sealed)} == answers
    assert not any(answer.encode() in sealed for answer in answers)
    assert records(run)[0].evidence.request.commitment == vault.commitment(run.request["id"])


# -- who may read it, and what is handed out --------------------------------------------------------


def test_nobody_but_the_owner_reads_anything_of_the_state_folder(run):
    state = run.path / ".sau"
    objects = state / "remote"  # closed like the folder above; DVC lets all read what lies in it
    paths = [state, run.path / ".dvc" / "cache", objects, *(p for p in state.rglob("*") if objects not in p.parents)]
    assert any(path.name == "cache.db" for path in paths), "DVC's site cache, with its pickles, is among them"
    assert [path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o077] == []


def records(run):
    """The log of evidence records, verified with the public key."""
    return read_log(run.path / ".sau" / "certificates", public_pem((run.path / ".sau/keys/signing.pem").read_bytes()))


def test_one_record_is_signed_and_is_about_the_checkpoint_that_is_registered(run):
    (entry,) = records(run)
    evidence = entry.evidence
    assert (evidence.request.id, evidence.verdict) == (run.request["id"], "PASS")
    assert (evidence.decision.version, evidence.decision.leads) == ("tiny@v2", True)
    assert {check.applied_to for check in evidence.checks} == {run.outcome["weights_digest"]}
    assert [stage.name for stage in evidence.procedure.stages] == ["snapshot", "unlearn", "package"]
    assert evidence.procedure.num_rows["forget"] == evidence.request.num_records == 20
    check_subjects(entry.statement, checkpoint_of(run, 2))
    with pytest.raises(CertificateError, match="differs"):
        check_subjects(entry.statement, checkpoint_of(run, 1))
    assert entry.path.read_text() == artifact(run, f"certificate-{run.request['id']}.json")


# -- scheduled --------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_deployment_on_a_server_takes_the_next_request(run, tmp_path):
    """`sau deploy` on a real Prefect server, triggered from outside, run by a worker: the next version is there."""
    import os
    import signal
    import socket
    import sys
    import time
    import urllib.request

    request = json.loads(run.sau("request", "submit", "--line", LINE, "--subject", "demo-0005", "--json").stdout)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    tools = Path(sys.executable).parent
    env = run.env(
        PREFECT_HOME=str(tmp_path / "server"), PREFECT_API_URL=api, PREFECT_SERVER_API_PORT=str(port),
        PREFECT_SERVER_ANALYTICS_ENABLED="false", DO_NOT_TRACK="1", PATH=f"{tools}{os.pathsep}{os.environ['PATH']}",
        SAU_PREFECT_API_URL=api,
    )  # fmt: skip
    (tmp_path / "server").mkdir()
    log = (tmp_path / "log").open("wb")

    def start(*command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(tools / command[0]), *command[1:]],
            cwd=run.path,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    children = [start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))]
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{api}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        server = {key: env[key] for key in ("PREFECT_HOME", "PREFECT_API_URL", "SAU_PREFECT_API_URL", "PATH")}
        deployed = run.sau("deploy", "--line", LINE, "--cron", "0 4 * * *", **server)
        assert f"forget/scheduled-{LINE}" in deployed.stdout
        listed = run.run(str(tools / "prefect"), "deployment", "inspect", f"forget/scheduled-{LINE}", **server).stdout
        assert "0 4 * * *" in listed
        audits = run.run(str(tools / "prefect"), "deployment", "inspect", f"audit/audit-{LINE}", **server).stdout
        assert "0 5 1 */3 *" in audits
        planned = []
        for _ in range(60):  # the schedule is alive: the server itself plans the next runs
            query = json.dumps({"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}).encode()
            asked = urllib.request.Request(f"{api}/flow_runs/filter", query, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked) as answer:
                planned = json.load(answer)
            if planned:
                break
            time.sleep(0.5)
        assert any("T04:00:00" in flow_run["expected_start_time"] for flow_run in planned)
        children.append(start("prefect", "worker", "start", "--pool", "sau", "--type", "process"))
        triggered = run.run(
            str(tools / "prefect"), "deployment", "run", f"forget/scheduled-{LINE}",
            "-p", "show_answers=true", "--watch", "--watch-timeout", "600", check=False, **server,
        )  # fmt: skip
        assert triggered.returncode == 0, triggered.stdout[-2000:] + (tmp_path / "log").read_text()[-3000:]
    finally:
        for child in reversed(children):
            os.killpg(child.pid, signal.SIGTERM)
        for child in children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
        log.close()
    shown = json.loads(run.sau("request", "show", request["id"], "--json").stdout)
    assert shown["version"] == 3
    passed = shown["verdict"] == "PASS"
    assert shown["state"] == ("forgotten" if passed else "review")
    # The people are invented and the flag was given: the report quotes answers.
    page = Path(mlflow_client(run).download_artifacts(shown["run_id"], "report.html")).read_text()
    assert "What the models answer" in page
    assert demo_rows("demo-0005", seed=1)[0]["question"] in page
    # Who was forgotten in v2 has been judged again on v3.
    verdict = json.loads(Path(mlflow_client(run).download_artifacts(shown["run_id"], "verification.json")).read_text())
    assert [person["label"] for person in verdict["earlier"]] == [run.request["id"]]
    assert [check["id"] for check in verdict["earlier"][0]["checks"]] == ["residual_knowledge", "other_forms"]
    links = json.loads(run.sau("lineage", f"{LINE}@v3", "--json").stdout)
    assert [link["tag"] for link in links] == [f"{LINE}@v3", f"{LINE}@v2", f"{LINE}@v1"]
    assert links[0]["aliases"] == (["candidate", "champion"] if passed else ["candidate"])
    assert links[1]["aliases"] == ([] if passed else ["champion"])
