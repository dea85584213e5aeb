"""Request after request through the forget flow, then a purge of all: is anything lost, do memory and disk stay flat?

    python -m benchmarks.soak [--requests 200] [--batch 1] [--minutes M] [--json FILE]

The smallest line that the product can make, in a scratch clone with a state folder of its own, and one process that
carries every request out as a scheduled run does: Prefect, MLflow, DVC, git and the ledger are the real ones. The
policy, beside a model that is retrained for each, is one that lets a version pass. Prints for each run its seconds, CPU
seconds (with those of its children), the memory of the process, and the bytes of each store; at the end what the stores
say of each other, and what each has kept for good. With `--minutes` it stops asking after so long, and purges what was
forgotten until then.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.small_line import POLICY, SMALL

ROOT = Path(__file__).resolve().parents[1]
LINE, NUM_STAY, NUM_HOLDOUT, ROWS = "soak", 12, 12, 4


def main() -> None:
    """Prepare the clone and go on in a process that begins there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1, help="So many are submitted before each run.")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        _soak(args)
        return
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        checkout = Path(folder) / "checkout"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
        env = {"SAU_HOME": str(Path(folder) / "home"), "SAU_ROOT": str(checkout), "PYTHONPATH": str(checkout)}
        given = [*sys.argv[1:], *(["--json", str(args.json.absolute())] if args.json else [])]
        command = [sys.executable, str(Path(__file__).resolve()), *given, "--inside"]
        sys.exit(subprocess.run(command, cwd=checkout, env={**os.environ, **env}).returncode)


def _soak(args: argparse.Namespace) -> None:
    from flows.servers import embedded_server

    server_is_up = embedded_server()
    from flows.bootstrap import bootstrap
    from flows.forget import forget
    from flows.purge import purge
    from sau.data.demo import demo_rows
    from sau.data.sources import DataOptions
    from tasks.engines.ledger import Ledger, State
    from tasks.engines.settings import settings
    from tasks.requests import submit

    home = Path(os.environ["SAU_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home.parent / "wide.yaml").write_text(yaml.safe_dump(POLICY))
    people = [f"soak-{number:04d}" for number in range(args.requests + NUM_STAY + NUM_HOLDOUT)]
    data = home.parent / "rows.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for person in people:
            file.writelines(json.dumps(row) + "\n" for row in demo_rows(person, seed=1)[:ROWS])
    server_is_up()
    overrides = SMALL | {"verify": {"policy": str(home.parent / "wide.yaml"), "retries": 0}}
    bootstrap(LINE, str(data), DataOptions(num_holdout=NUM_HOLDOUT * ROWS), overrides)
    told: dict[str, Any] = {"after_bootstrap": _sizes(home), "runs": []}
    begun, ids = time.monotonic(), list[str]()
    while len(ids) < args.requests and time.monotonic() - begun < 60 * args.minutes:
        asked = [submit(LINE, person).id for person in people[len(ids) : len(ids) + args.batch]]
        ids += asked
        told["runs"].append(
            _timed(lambda: forget(LINE, reference=True)) | {"requests": len(asked), "bytes": _sizes(home)}
        )
        _say(len(told["runs"]), told["runs"][-1])
        _write(args.json, told)
    told["lost_before_purge"] = _lost(ids, purged=False)
    told["before_purge"] = _sizes(home)
    forgotten = tuple(i for i in ids if Ledger(settings().ledger_url).get(i).state == State.FORGOTTEN)
    told["passed"] = len(forgotten)
    told["purge"] = _timed(lambda: purge(LINE, forgotten, "soak"))
    told["after_purge"] = _sizes(home)
    told["lost"] = _lost(ids, purged=True)
    _write(args.json, told)
    _sum_up(told, len(ids))


def _timed(call: Any) -> dict[str, float]:
    """Seconds, CPU seconds with those of children that have ended, and MB of memory, of a call in this process."""
    started, before = time.monotonic(), sum(os.times()[:4])
    call()
    memory = psutil.Process().memory_info().rss / 1e6
    return {"seconds": time.monotonic() - started, "cpu_s": sum(os.times()[:4]) - before, "mb": memory}


def _sizes(home: Path) -> dict[str, int]:
    """Bytes by store."""
    places = {
        "DVC cache": Path(".dvc/cache"), "DVC remote": home / "remote", "MLflow artifacts": home / "mlartifacts",
        "MLflow database": home / "mlflow.db", "ledger": home / "ledger.db", "Prefect": home / "prefect",
        "git": Path(".git"),
    }  # fmt: skip
    found = {name: _bytes(place) for name, place in places.items()}
    inside = sum(size for name, size in found.items() if name not in ("DVC cache", "git"))
    return found | {"rest of SAU_HOME": _bytes(home) - inside}


def _bytes(place: Path) -> int:
    if place.is_dir():
        return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in place.parent.glob(f"{place.name}*") if path.is_file())


def _lost(ids: list[str], *, purged: bool) -> list[str]:
    """Where ledger, registry, git and DVC do not say the same of these requests; empty: nothing is lost."""
    from flows.doctor import doctor
    from tasks.engines.keys import vault
    from tasks.engines.ledger import Ledger, State
    from tasks.engines.pins import pins_at
    from tasks.engines.repository import tagged_versions
    from tasks.engines.settings import settings
    from tasks.versions.expiry import all_expired
    from tasks.versions.lineage import carried_out
    from tasks.versions.registry import Versions

    ledger, versions = Ledger(settings().ledger_url), Versions().all(LINE)
    done, gone = carried_out(LINE), all_expired(settings().root, LINE)
    requests = {r.id: r for r in ledger.list(LINE)}
    found = [f"{i} is not in the ledger" for i in ids if i not in requests]
    for request in requests.values():
        passed = request.state == State.FORGOTTEN
        if not passed and request.state != State.REVIEW:
            found.append(f"{request.id} is {request.state}")
        if passed != (request.id in done):
            found.append(f"{request.id} is {request.state}, and {'not ' * passed}in force")
        if (key := vault().state(request.id)) != ("shredded" if passed and purged else "held"):
            found.append(f"{request.id} is {request.state}, and the vault says {key}")
    found += [f"{v.tag} has no git tag" for v in versions if v.number not in tagged_versions(settings().root, LINE)]
    remote = settings().remote_folder
    assert remote is not None
    for version in versions:
        md5 = pins_at(settings().root, version.tag)["checkpoint"].md5
        there = (remote / "files" / "md5" / md5[:2] / md5[2:]).is_file()
        if there == (version.tag in gone):
            found.append(f"{version.tag}: its checkpoint is {'still' if there else 'not'} in the DVC remote")
    found += [f"{v.tag} leads, and its bytes are gone" for v in versions if v.leads and v.tag in gone]
    return found + [finding.words for finding in doctor(LINE)]


def _say(number: int, run: dict[str, Any]) -> None:
    sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in run["bytes"].items())
    print(f"{number:4} {run['seconds']:6.1f} s {run['cpu_s']:6.1f} CPU s {run['mb']:6.0f} MB; MB: {sizes}", flush=True)


def _sum_up(told: dict[str, Any], num: int) -> None:
    """Growth of time and memory between the runs' quarters, and what each store has kept for each request."""
    runs = told["runs"]
    quarter = max(1, len(runs) // 4)
    for name, words in (("seconds", "s a run"), ("cpu_s", "CPU s a run"), ("mb", "MB of memory")):
        early, late = (
            sum(run[name] for run in some) / quarter for some in (runs[quarter : 2 * quarter], runs[-quarter:])
        )
        print(f"{words}: {early:.1f} in the second quarter of the runs, {late:.1f} in the last")
    print(f"the purge: {told['purge']['seconds'] / max(1, told['passed']):.1f} s a request")
    print(f"{'bytes a request':20}{'forgotten':>12}{'purged':>12}")
    for store, first in told["after_bootstrap"].items():
        before, after = ((told[when][store] - first) / num for when in ("before_purge", "after_purge"))
        print(f"{store:20}{before:12,.0f}{after:12,.0f}")
    for words in dict.fromkeys([*told["lost_before_purge"], *told["lost"]]):
        print(f"LOST: {words}")
    if not told["lost_before_purge"] and not told["lost"]:
        print(f"{num} requests, {told['passed']} passed and were purged, the others wait in review: nothing lost")


def _write(target: Path | None, told: dict[str, Any]) -> None:
    if target:
        target.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
