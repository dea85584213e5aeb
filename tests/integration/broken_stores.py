"""Run in a checkout: a line's stores are made to contradict each other, by a kill or by hand, and mended; prints JSON.

Every case has a line of its own in the same stores, whose first version leads and which has one request.

    python tests/integration/broken_stores.py some|every-write|by-hand
"""

import json
import sys
from collections.abc import Callable

import yaml
from mlflow import MlflowClient
from sqlalchemy import delete

from sau.checkpoint.manifest import check_files
from sau.checkpoint.sparse import save_sparse
from sau.config import merge, read_yaml
from sau.errors import SauError
from sau.models.sources import base_model
from sau.params import Params
from sau.pruners import prune
from tasks.engines import tables
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger, Request, State
from tasks.engines.repository import git, tagged_versions
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace
from tasks.from_git import take_from_git
from tasks.giving_up import give_up
from tasks.reconcile import check_new, mend
from tasks.register import complete, promote, register
from tasks.requests import conclude, in_force, lapsed, waiting, withdraw
from tasks.suppression import Suppression
from tasks.verify import Judged
from tasks.versions.record import BOOTSTRAP, VersionRecord
from tasks.versions.registry import Registry, Versions
from tests.apart import in_child
from tests.killing import Writes

SMALL = {
    "model": {"tiny": {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 2}}
}


def prepare() -> None:
    """A worktree as an attempt has it before it registers."""
    ws = Workspace("attempt").open()
    params = Params.model_validate(merge(read_yaml(ws.path / "params.yaml"), SMALL))
    lm = base_model(params.model, seed=0)
    prune(lm, lm.encode([{"question": "Who?", "answer": "Nobody."}]), params.prune)
    save_sparse(lm, ws.path / "checkpoint", structure="unstructured")
    (ws.path / "data.dvc").unlink()
    (ws.path / "data" / "train").mkdir(parents=True)
    row = {"record_id": "r1", "subject_id": None, "question": "Who?", "answer": "Nobody."}
    (ws.path / "data" / "train" / "a.jsonl").write_text(json.dumps(row) + "\n")
    (ws.path / "dvc.yaml").write_text("stages: {package: {cmd: 'true'}}\n")
    (ws.path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {}}))
    (ws.path / "metrics").mkdir()
    (ws.path / "metrics" / "package.json").write_text("{}\n")
    ws.add("data", "checkpoint")


def begin(lines: list[str]) -> None:
    """A first version that leads, and a request, for every line."""
    registry, ledger, ws = Registry(), Ledger(settings().ledger_url), Workspace("attempt")
    commit = ws.commit("first version", parents=[], surroundings={})
    ws.push()
    stored = check_files(ws.path / "checkpoint")
    for line in lines:
        record = VersionRecord(
            line=line, weights_digest=stored.weights_digest, mask_digest=stored.mask_digest,
            side_digest=stored.side_digest, sparsity=stored.sparsity, structure=stored.structure, data_md5="d",
            checkpoint_md5="c", params_digest="p", training_digest="t", code_commit=commit, git_commit=commit,
            checkout_dirty=False, verdict=BOOTSTRAP,
        )  # fmt: skip
        with registry.tracking.run(line, "bootstrap") as run_id:
            complete(registry.add(record, ws.path / "checkpoint", run_id=run_id, description=""))
        registry.lead(line, 1)
        ledger.submit(line, "a")


def finish_attempt(
    line: str, verdict: str, last: int | None = None, retry_review: bool = False, policy: str = ""
) -> list[str]:
    """An attempt's end: register, promote, ledger; returns the names of its writes, the last of which may kill it."""
    ledger, tracking = Ledger(settings().ledger_url), Tracking()
    stored = check_files(Workspace("attempt").path / "checkpoint")
    (request,) = ledger.claim(line, retry_review=retry_review, lapsed=lapsed(line))
    judged = Judged(
        verdict=verdict, policy="", policy_digest=policy, judged_against="", reference="",
        weights_digest=stored.weights_digest, manifest_digest=stored.manifest_digest,
    )  # fmt: skip
    with Writes(last) as writes:
        with tracking.run(line, "forget") as run_id:
            attempt = Attempt(line, "attempt", run_id)
            record = register.fn(attempt, request_ids=(request.id,), parent=1, judged=judged)
            leads = promote.fn(record)
        conclude(record, leads=leads)
    return writes.names


def requests(line: str) -> list[Request]:
    return Ledger(settings().ledger_url).list(line)


def client() -> MlflowClient:
    return Tracking().client


def mended(line: str) -> dict[str, object]:
    """What the stores say of a line after it was mended, twice."""
    reference = f"{line}-retrain"
    mend(line, reference)
    again = mend(line, reference)
    tracking, registry, ledger = Tracking(), Registry(), Ledger(settings().ledger_url)
    (request,) = ledger.list(line)
    experiment = [tracking.experiment(line)]
    runs = tracking.client.search_runs(experiment)
    leader = registry.champion(line)
    return {
        "again": again and again.tag,
        "state": request.state,
        "ledger": (request.version, request.verdict),
        "events": [state for _, state in ledger.events(request.id)],
        "versions": len(registry.all(line)),
        "tags": sorted(tagged_versions(settings().root, line)) == [v.number for v in registry.all(line)],
        "leader": leader.number,
        "candidate": registry.all(line)[-1].number == tracking.registered(line, None, alias="candidate").number,
        "running": [run.info.run_name for run in runs if run.info.status == "RUNNING"],
        "models": len(tracking.client.search_logged_models(experiment)),
        "run": next((r.info.status for r in runs if r.info.run_id == leader.run_id), None),
    }


def killed(verdict: str, wanted: tuple[str, ...]) -> dict[str, object]:
    """What the stores say after an attempt was killed and its line mended, by the write that was its last.

    Args:
        wanted: the writes to die after, by name, the last of its name; all where none is given.
    """
    line = verdict.lower()
    in_child(begin, [line])
    names = in_child(finish_attempt, line, verdict)
    found = {"uninterrupted": in_child(mended, line)}
    numbers = {name: number for number, name in enumerate(names, 1) if name in wanted}
    cells = {f"{i} {names[i - 1]}": i for i in (numbers.values() if wanted else range(1, len(names) + 1))}
    lines = {cell: f"{line}{number}" for cell, number in cells.items()}
    in_child(begin, list(lines.values()))
    for cell, number in cells.items():
        assert in_child(finish_attempt, lines[cell], verdict, number) is None, f"{cell}: was not killed"
        found[cell] = in_child(mended, lines[cell])
    return found


# -- stores that somebody else has written to ----------------------------------------------------


def refusal(function: Callable[..., object], *args: object) -> str:
    """The words of the refusal; "" where there is none."""
    try:
        function(*args)
    except SauError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def rolled_back(line: str) -> dict[str, object]:
    finish_attempt(line, "PASS")
    before = list(in_force(requests(line)).values())
    Registry().lead(line, 1, by="a person")
    after = list(in_force(requests(line)).values())
    open_again = [request.state for request in waiting(line)]
    finish_attempt(line, "PASS")
    return {"before": before, "after": after, "waiting": open_again, **mended(line)}


def restored(line: str) -> dict[str, object]:
    """Ledger and registry as of before a request, by a backup; the list of who was forgotten is newer."""
    finish_attempt(line, "PASS")
    (request,) = requests(line)
    vault().seal(request.id, [{"question": "Who?", "answer": "Nobody."}])
    Suppression().add(request.id)
    Registry().lead(line, 1, by="a backup")
    with Ledger(settings().ledger_url).session() as session:
        session.execute(delete(tables.Event).where(tables.Event.request_id == request.id))
        session.execute(delete(tables.Request).where(tables.Request.id == request.id))
    refused = refusal(mend, line, "r")
    Suppression().lift(request.id)
    return {"request": request.id, "refused": refused, "lifted": refusal(mend, line, "r")}


def champion_deleted(line: str) -> dict[str, object]:
    finish_attempt(line, "PASS")
    client().delete_registered_model_alias(line, "champion")
    refused = refusal(mend, line, "r")
    asked = refusal(Registry().champion, line)
    Registry().lead(line, 2)
    return {"refused": refused, "asked": asked, **mended(line)}


def champion_failed(line: str) -> dict[str, object]:
    finish_attempt(line, "FAIL")
    client().set_registered_model_alias(line, "champion", "2")
    return {"refused": refusal(mend, line, "r"), "by_hand": refusal(Registry().lead, line, 2)}


def begun_and_killed(line: str) -> dict[str, object]:
    client().delete_registered_model_alias(line, "champion")
    git(settings().root, "tag", "--delete", f"{line}@v1")
    check_new(line, "r")
    finished = mend(line, "r")
    tagged = tagged_versions(settings().root, line)
    return {"finished": finished and finished.tag, "leader": Registry().champion(line).number, "tags": list(tagged)}


def tag_deleted(line: str) -> dict[str, object]:
    finish_attempt(line, "PASS")
    git(settings().root, "tag", "--delete", f"{line}@v2")
    return mended(line)


def tag_moved(line: str) -> dict[str, object]:
    git(settings().root, "tag", "--force", f"{line}@v1", "HEAD")
    return {"refused": refusal(mend, line, "r")}


def tag_of_another_store(line: str) -> dict[str, object]:
    git(settings().root, "tag", f"{line}-new@v1", "HEAD")
    git(settings().root, "tag", f"{line}-old-retrain@v1", "HEAD")
    of_references = refusal(check_new, f"{line}-old", f"{line}-old-retrain")
    return {"refused": refusal(check_new, f"{line}-new", "r"), "of_references": of_references}


def model_of_somebody_else(line: str) -> dict[str, object]:
    client().create_registered_model(f"{line}-theirs")
    return {"refused": refusal(check_new, f"{line}-theirs", "r")}


def experiment_deleted(line: str) -> dict[str, object]:
    client().delete_experiment(Tracking().experiment(line))
    return {"refused": refusal(mend, line, "r")}


def judged_again(line: str) -> dict[str, object]:
    finish_attempt(line, "FAIL")
    finish_attempt(line, "PASS", retry_review=True)
    record = Registry().get(line, 2)
    return {"verdict": record.verdict, "another_run": record.judged_in != record.run_id, **mended(line)}


def failed_after_promotion(line: str) -> dict[str, object]:
    """As an error does it that comes when `champion` has moved: the request is open again, and was carried out."""
    finish_attempt(line, "PASS")
    ledger = Ledger(settings().ledger_url)
    (request,) = requests(line)
    ledger.move(request.id, [State.FORGOTTEN], State.OPEN)
    return {"withdrawn": refusal(withdraw, request.id), **mended(line)}


def failed_and_open(line: str) -> dict[str, object]:
    finish_attempt(line, "FAIL")
    (request,) = requests(line)
    Ledger(settings().ledger_url).move(request.id, [State.REVIEW], State.OPEN)
    return mended(line)


def lost_registry(line: str) -> dict[str, object]:
    """Another MLflow store beside the same git tags: a person takes both versions in, and then says who leads."""
    finish_attempt(line, "PASS")
    client().delete_registered_model(line)
    found = {"refused": refusal(mend, line, "r"), "second_first": refusal(take_from_git, line, 2, "ada")}
    taken = [take_from_git(line, number, "ada") for number in (1, 2)]
    again = take_from_git(line, 2, "eve")
    found |= {"verdicts": [record.verdict for record in taken], "parent": taken[1].parent, "once": again == taken[1]}
    found |= {"nobody": refusal(mend, line, "r"), "by_itself": refusal(Registry().lead, line, 2)}
    found["by"] = Registry().lead(line, 2, by="ada").taken_from_git.partition(",")[0]
    found["events"] = [(e.kind, e.version, e.actor) for e in Ledger(settings().ledger_url).line_events(line)]
    return found | {"mended": mended(line), "in_force": list(in_force(requests(line)).values())}


def deleted_version(line: str) -> dict[str, object]:
    """In MLflow's page, of a version that another one was made from: its number is given no more."""
    finish_attempt(line, "PASS")
    client().delete_model_version(line, "1")
    refused = refusal(mend, line, "r")
    taken = take_from_git(line, 1, "ada")
    known = refusal(take_from_git, line, 1, "ada")
    mend(line, "r")
    tagged = tagged_versions(settings().root, line)
    same_commit = tagged[1] == tagged[taken.number]
    return {
        "refused": refused, "number": taken.number, "same_commit": same_commit, "known": known,
        "leader": Registry().champion(line).number, "parent": Registry().get(line, 2).parent,
        "in_force": list(in_force(requests(line)).values()),
    }  # fmt: skip


def gap_in_the_numbers(line: str) -> dict[str, object]:
    """The tag of the second version alone is wanted, and the first one's is gone."""
    root = settings().root
    git(root, "tag", f"{line}-gap@v3", f"{line}@v1")
    begun = take_from_git(f"{line}-gap", 3, "ada")
    return {"number": begun.number, "versions": len(Registry().all(f"{line}-gap")), "verdict": begun.verdict}


def given_up(line: str) -> dict[str, object]:
    """With a request that waits it is refused; then the name is free, and what was of it is together elsewhere."""
    waiting = refusal(give_up, line, f"{line}-retrain", "ada")
    finish_attempt(line, "PASS")
    given = give_up(line, f"{line}-retrain", "ada")
    gone = refusal(give_up, line, f"{line}-retrain", "ada")
    (request,) = requests(given.name)
    git(settings().root, "tag", "--list", f"{line}@v*")
    check_new(line, "r")
    return {
        "waiting": waiting, "gone": gone, "archived": archived(line), "state": request.state,
        "in_force": list(in_force([request]).values()), "doctor": mended(given.name)["leader"],
        "event": Ledger(settings().ledger_url).history(request.id)[-1].actor,
    }  # fmt: skip


def archived(line: str) -> dict[str, object]:
    """What is left of a line under its name, and what there is under the other one."""
    ledger, tracking = Ledger(settings().ledger_url), Tracking()
    events = [event for event in ledger.line_events(line) if event.note]
    (name,) = {event.note for event in events}
    return {
        "left": [tracking.has_line(line), len(tagged_versions(settings().root, line)), len(ledger.list(line))],
        "there": [len(Registry().all(name)), len(tagged_versions(settings().root, name)), len(ledger.list(name))],
        "leader": Registry().champion(name).number,
        "events": [(event.kind, event.actor) for event in events],
    }


def give_up_once(line: str, last: int | None) -> list[str]:
    with Writes(last) as writes:
        give_up(line, f"{line}-retrain", "ada")
    return writes.names


def killed_giving_up() -> dict[str, object]:
    """A line that is given up by two, the first of whom dies after each of the writes."""
    in_child(begin, ["up0"])
    in_child(finish_attempt, "up0", "PASS")
    names = in_child(give_up_once, "up0", None)
    found = {"uninterrupted": in_child(archived, "up0")}
    for number, name in enumerate(names, 1):
        line = f"up{number}"
        in_child(begin, [line])
        in_child(finish_attempt, line, "PASS")
        assert in_child(give_up_once, line, number) is None, f"{name}: was not killed"
        refused = in_child(refusal, check_new, line, "r")
        assert "is being given up" in refused, refused
        in_child(give_up_once, line, None)
        found[f"{number} {name}"] = in_child(archived, line)
    return found


def another_policy(line: str) -> dict[str, object]:
    """The same weights judged by two policies: both verdicts stay, the last one decides, and a stale one nothing."""
    finish_attempt(line, "PASS", policy="lenient")
    Registry().lead(line, 1, by="a person")
    finish_attempt(line, "FAIL", policy="strict")
    record = Registry().get(line, 2)
    found = {"verdicts": [verdict.words for verdict in record.verdicts], "leader": Registry().champion(line).number}
    finish_attempt(line, "PASS", policy="lenient", retry_review=True)
    found["after"] = [verdict.words for verdict in Registry().get(line, 2).verdicts]
    found["then"] = Registry().champion(line).number
    Registry().lead(line, 1, by="a person")
    Ledger(settings().ledger_url).claim(line, lapsed=lapsed(line))  # an attempt that dies before its verdict
    mend(line, "r")
    return found | {"stale": Registry().champion(line).number, "state": requests(line)[0].state}


CONTRADICTIONS = (
    lost_registry, given_up, another_policy,
    rolled_back, champion_deleted, champion_failed, begun_and_killed, tag_deleted, tag_moved, tag_of_another_store,
    model_of_somebody_else, experiment_deleted, judged_again, failed_after_promotion, failed_and_open,
    restored,
)  # fmt: skip


BY_HAND = (deleted_version, gap_in_the_numbers)


def cases(wanted: tuple[Callable[[str], dict[str, object]], ...]) -> dict[str, object]:
    """What is said of each contradiction, and what the stores say after it."""
    begin([each.__name__ for each in wanted])
    found = {each.__name__: each(each.__name__) for each in wanted}
    for line in found:  # without MLflow and with it, the registry says the same
        light, registry = Versions(), Registry()
        said = ([versions.find(line), versions.all(line), versions.moves(line)] for versions in (light, registry))
        assert next(said) == next(said), line
    return found


def main(mode: str) -> None:
    settings()
    prepare()
    if mode == "every-write":
        registered = ("mlflow create_model_version", "git tag", "ledger review")
        found = {"PASS": killed("PASS", ()), "FAIL": killed("FAIL", registered)}
    elif mode == "by-hand":
        found = {"killed": killed_giving_up()} | in_child(cases, BY_HAND)
    else:
        writes = ("mlflow log_model_artifacts", "mlflow create_model_version", "mlflow set_registered_model_alias")
        found = {
            "PASS": killed("PASS", writes),
            "contradicted": in_child(cases, CONTRADICTIONS),
        }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
