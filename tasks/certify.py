"""Certify: one signed evidence record per request that a version was made for, in the log of this state folder."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock

from sau.certificate.envelope import public_pem
from sau.certificate.files import subjects_of
from sau.certificate.log import Entry, append, read_log
from sau.certificate.record import Check
from sau.errors import RequestError
from tasks.engines.keys import signing_key, vault
from tasks.engines.ledger import Ledger
from tasks.engines.orchestration import task
from tasks.engines.pins import pins_at
from tasks.engines.repository import git
from tasks.engines.runs import flatten
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.suppression import Suppression
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

if TYPE_CHECKING:
    from sau.verify import Finding, Verification

log = logging.getLogger("sau")

_SECTIONS = ("seed", "num_threads", "unlearn.", "verify.", "package.")
_NOT_COVERED = [
    "Backups of the stores, and copies of model or data outside this pipeline.",
    "Versions of the model from before this one, which know the person until they are removed.",
]


def log_folder() -> Path:
    """Where the records lie."""
    return settings().state / "certificates"


@task(name="certify", task_run_name="certify {record.tag}")
def certify(record: VersionRecord) -> list[str]:
    """Sign what is known of each request of a version; what stands in the log already is not signed again.

    Returns:
        The digests of the records, in the order of the requests; none of a version that was not judged.

    Raises:
        RequestError: the version was made for no request.
        CertificateError: the log is damaged.
    """
    from sau.verify import Verification  # torch, which takes seconds: not for who reads or signs what was judged
    from tasks.verify import RECORD

    if not record.request_ids:
        raise RequestError(f"{record.tag}: was made for no request, there is nothing to certify")
    if not record.policy:  # nothing was judged: there is nothing to say
        return []
    tracking, root = Tracking(), settings().root
    record = Registry(tracking).get(record.line, record.number)
    verification = Verification.model_validate_json(tracking.artifact(record.judged_in, RECORD))
    common = _common(record, verification, tracking, root)
    subjects = subjects_of(Registry(tracking).download(record))
    entries = [
        signed(subjects, common | _of_request(request_id, record, verification)) for request_id in record.request_ids
    ]
    for entry in entries:
        asked = entry.evidence.request
        if entry.evidence.decision.leads and asked.key == "held":
            Suppression().add(asked.id)
        name = f"certificate-{entry.evidence.request.id}.json"
        tracking.text(record.judged_in, entry.path.read_text(encoding="ascii"), name)
    return [entry.digest for entry in entries]


def signed(subjects: list[dict[str, Any]], evidence: dict[str, Any]) -> Entry:
    """Append a record to the log, or find the one that says the same of the same request."""
    folder, key = log_folder(), signing_key()
    with FileLock(settings().state / "certificates.lock", timeout=settings().database_wait_s):
        there = read_log(folder, public_pem(key)) if (folder / "head.json").is_file() else []
        for entry in reversed(there):
            if entry.evidence.request.id == evidence["request"]["id"]:
                if _same(entry, evidence):
                    return entry
                break
        return append(folder, key, subjects, evidence)


def latest(request_id: str) -> Entry:
    """The newest record of a request, its log verified.

    Raises:
        RequestError: there is none.
        CertificateError: the log is damaged.
    """
    folder = log_folder()
    entries = read_log(folder, public_pem(signing_key())) if (folder / "head.json").is_file() else []
    for entry in reversed(entries):
        if entry.evidence.request.id == request_id:
            return entry
    raise RequestError(f"request {request_id}: no record was signed yet")


def _same(entry: Entry, evidence: dict[str, Any]) -> bool:
    """Whether an entry says of its request what `evidence` says: version, weights, judgement, what was cleaned."""
    found = entry.evidence
    mine = (found.decision.version, found.decision.leads, found.verdict, found.policy.digest, found.request.key)
    weights = {check.applied_to for check in found.checks}
    decision, asked = evidence["decision"], evidence["request"]
    others = (
        decision["version"], decision["leads"], evidence["verdict"], evidence["policy"]["digest"], asked["key"],
    )  # fmt: skip
    given = {check["applied_to"] for check in evidence["checks"]}
    cleaned = [(store.store, store.residual) for store in found.purge]
    left = [(store["store"], store["residual"]) for store in evidence.get("purge", ())]
    return mine == others and weights == given and cleaned == left


def _common(record: VersionRecord, verification: "Verification", tracking: Tracking, root: Path) -> dict[str, Any]:
    """What holds for all requests of a version."""

    def shown(name: str) -> Any:
        return yaml.safe_load(git(root, "show", f"{record.tag}:{name}"))

    params, unlearned, snapshot = shown("params.yaml"), shown("metrics/unlearn.json"), shown("metrics/snapshot.json")
    pins = pins_at(root, record.tag)
    assert record.parent is not None  # a version with requests has one
    return {
        "decision": {"version": record.tag, "leads": record.leads, "at": datetime.now(UTC)},
        "inputs": {
            "parent": f"{record.line}@v{record.parent}",
            "parent_weights": record.parent_digest,
            "mask": record.mask_digest,
            "sparsity": record.sparsity,
            "structure": record.structure,
            "data": record.data_md5,
            "base": pins["base"].md5 if "base" in pins else "",
            "params": record.params_digest,
            "git_commit": record.git_commit,
            "code_commit": record.code_commit,
            "checkout_dirty": record.checkout_dirty,
        },
        "procedure": {
            "method": params["unlearn"]["objective"]["name"],
            "redistribution": params["unlearn"]["redistribution"]["name"],
            "seed": params["seed"],
            "num_steps": unlearned["num_steps"],
            "stopped": str(unlearned["stopped"]),
            "device": str(unlearned.get("device", "cpu")),
            "seconds": round(tracking.seconds(record.run_id), 1),
            "settings": {k: str(v) for k, v in flatten(params).items() if k.startswith(_SECTIONS)},
            "surroundings": shown("surroundings.json"),
            "stages": _stages(shown("dvc.lock")),
            "num_rows": {k.removeprefix("num_"): v for k, v in snapshot.items() if k != "num_overlap"},
        },
        "policy": {
            "name": verification.policy,
            "version": verification.policy_version,
            "digest": verification.policy_digest,
            "judged_against": verification.judged_against,
        },
        "stressors": sorted({f.id.partition("/")[2] for f in verification.checks if "/" in f.id}),
        "utility": {
            role: {f"{group}/{name}": v for group in ("retain", "model") for name, v in groups.get(group, {}).items()}
            for role, groups in verification.table.items()
        },
        "batch_verdict": verification.verdict,
        "not_covered": _NOT_COVERED,
        "limits": verification.limits,
    }


def _stages(lock: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "command": stage["cmd"],
            "outs": {out["path"]: out["md5"] for out in stage.get("outs", ()) if "md5" in out},
        }
        for name, stage in lock["stages"].items()
    ]


def _of_request(request_id: str, record: VersionRecord, verification: "Verification") -> dict[str, Any]:
    """What is said of one request; where several asked together, of the person alone."""
    request = Ledger(settings().ledger_url).get(request_id)
    alone = next((person for person in verification.people if person.label == request_id), None)
    findings = verification.checks
    if alone:
        findings = [*alone.checks, *(finding for finding in verification.checks if not finding.about_forgetting)]
    return {
        "request": {
            "id": request.id,
            "line": request.line,
            "ground": request.reason,
            "received_at": request.received_at,
            "deadline_at": request.deadline_at,
            "num_records": alone.num_records if alone else verification.num_records["forget"],
            "num_requests": len(record.request_ids),
            "commitment": vault().commitment(request_id) if vault().state(request_id) == "held" else "",
            "key": vault().state(request_id),
        },
        "checks": [_check(finding, verification) for finding in findings],
        "verdict": alone.verdict if alone else verification.verdict,
        "reasons": alone.reasons if alone else verification.reasons,
    }


def _check(finding: "Finding", verification: "Verification") -> dict[str, Any]:
    same = ("id", "mandatory", "n", "interval", "margin", "before", "reference", "p", "power", "verdict", "reason")
    given = finding.model_dump(mode="json", include=set(same))
    return Check(
        **given,
        version=verification.policy_version,
        applied_to=verification.weights_digest,
        statistic=finding.value,
        people_who_stay=finding.seen,
        strangers=finding.alarms,
    ).model_dump(mode="json")
