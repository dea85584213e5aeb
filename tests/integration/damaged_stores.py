"""Run in a checkout: what a line's version is made of is damaged in one store after the other, and `doctor` is asked.

Prints JSON: case -> what was found, whether it stops, and what the stores hold afterwards; and where nobody mends it,
what the forget flow says of it, and what it leaves behind.

    python tests/integration/damaged_stores.py [CASE ...]
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from flows.doctor import doctor
from flows.forget import forget
from flows.servers import prefect_server
from sau.checkpoint.manifest import check_files
from sau.errors import SauError
from tasks.engines.cache import FOLDER, cached, damaged, listing
from tasks.engines.ledger import Ledger
from tasks.engines.pins import dvc, pins_at
from tasks.engines.repository import git, tagged_versions
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Workspace, scratch
from tasks.versions.registry import Registry
from tests.apart import Stores, in_child
from tests.integration.broken_stores import begin, prepare

LINE = "tiny"


def objects_of(path: str) -> list[str]:
    """The md5s of a pin of the version: its listing, and what it lists."""
    pin = pins_at(settings().root, f"{LINE}@v1")[path].md5
    return [pin, *listing(pin).values()] if pin.endswith(FOLDER) else [pin]


def in_remote(md5: str) -> Path:
    return Path(settings().remote_url) / "files" / "md5" / md5[:2] / md5[2:]


def flip(path: Path) -> None:
    """Change one bit in the middle, and nothing that could give it away: size, time and mode stay."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(status.st_mode)


def truncate(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-5])


def stored() -> Path:
    """MLflow's folder of the checkpoint."""
    return Registry().download(Registry().get(LINE, 1))


def weights(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


# -- damage, one function each -------------------------------------------------------------------


def nothing() -> None:
    pass


def row_in_cache() -> None:
    flip(cached(objects_of("data")[1]))


def listing_in_cache() -> None:
    flip(cached(objects_of("data")[0]))


def checkpoint_in_cache() -> None:
    for md5 in objects_of("checkpoint")[1:]:
        truncate(cached(md5))


def cache_collected() -> None:
    shutil.rmtree(cached(objects_of("data")[0]).parent.parent)


def row_in_both() -> None:
    md5 = objects_of("data")[1]
    flip(cached(md5))
    flip(in_remote(md5))


def row_in_remote() -> None:
    """Nobody needs it there today: it is found when it is."""
    flip(in_remote(objects_of("data")[1]))


def remote_deleted() -> None:
    shutil.rmtree(settings().remote_url)


def bytes_in_no_store() -> None:
    cache_collected()
    remote_deleted()


def weights_in_mlflow() -> None:
    flip(weights(stored()))


def weights_cut_in_mlflow() -> None:
    truncate(weights(stored()))


def file_lost_in_mlflow() -> None:
    (stored() / "config.json").unlink()


def experiment_deleted() -> None:
    Tracking().client.delete_experiment(Tracking().experiment(LINE))


def version_deleted() -> None:
    Tracking().client.delete_model_version(LINE, "1")


def tag_deleted() -> None:
    git(settings().root, "tag", "--delete", f"{LINE}@v1")


def tag_moved() -> None:
    git(settings().root, "tag", "--force", f"{LINE}@v1", "HEAD")


def ledger_damaged() -> None:
    path = settings().state / "ledger.db"
    Ledger(settings().ledger_url).engine.dispose()
    content = bytearray(path.read_bytes())
    content[100:] = bytes(len(content) - 100)
    path.write_bytes(content)


def collected() -> None:
    """A colleague has cleaned up, whose checkout pins another data set: `dvc gc`."""
    _collect()


def collected_everywhere() -> None:
    """The same, and the remote as well: what no workspace pins is lost."""
    _collect("--cloud")


def _collect(*options: str) -> None:
    with scratch("colleague") as ws:
        dvc(ws.path, "gc", "--workspace", "--force", *options)


def remote_read_only() -> None:
    on_a_small_disk(Path(settings().remote_url), read_only=True)


def remote_full() -> None:
    on_a_small_disk(Path(settings().remote_url), left=0)


def home_full() -> None:
    on_a_small_disk(settings().state, left=0)


def home_nearly_full() -> None:
    """There is room for what is said of an attempt, and none for its work."""
    on_a_small_disk(settings().state, left=1 << 18)


def on_a_small_disk(place: Path, *, left: int = 0, read_only: bool = False) -> None:
    """Put a folder on a file system of its own, with so many bytes left.

    Raises:
        PermissionError: no file system may be mounted here.
    """
    beside = Path(tempfile.mkdtemp())
    shutil.copytree(place, beside / "copy", symlinks=True)
    size = sum(path.stat().st_blocks * 512 + 4096 for path in place.rglob("*") if path.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size + (1 << 20)}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        raise PermissionError
    shutil.copytree(beside / "copy", place, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(beside)
    if read_only:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    else:
        with contextlib.suppress(OSError), (place / FILLER).open("wb", buffering=0) as filler:
            filler.write(bytes(max(0, shutil.disk_usage(place).free - left)))


def free(place: Path) -> None:
    """Give a folder on a small disk room again, and let it be written to."""
    if place.is_mount():
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        (place / FILLER).unlink(missing_ok=True)


def unmount() -> None:
    for place in (Path(settings().remote_url), settings().state):
        if place.is_mount():
            subprocess.run(["umount", str(place)], check=True)


CASES: tuple[Callable[[], None], ...] = (
    row_in_cache, listing_in_cache, checkpoint_in_cache, cache_collected, row_in_both, row_in_remote, remote_deleted,
    weights_in_mlflow, weights_cut_in_mlflow, file_lost_in_mlflow, experiment_deleted, version_deleted, tag_deleted,
    tag_moved, bytes_in_no_store, ledger_damaged, collected, collected_everywhere,
)  # fmt: skip

ATTEMPTED: tuple[Callable[[], None], ...] = (
    row_in_both, remote_deleted, experiment_deleted, version_deleted, tag_moved, collected_everywhere,
    remote_read_only, remote_full, home_full, home_nearly_full,
)  # fmt: skip
FILLER = "filler"


def found_of(case: str, refill: bool = False) -> dict[str, object]:
    """What doctor says of the damage, and says when it is asked again."""
    globals()[case]()
    try:
        findings = doctor(LINE, refill=refill)
    except SauError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    said = {"said": [finding.words for finding in findings], "stops": [finding.stops for finding in findings]}
    if any(finding.stops for finding in findings):
        return said
    return said | {
        "again": [finding.words for finding in doctor(LINE)],
        "cache": [md5 for path in ("data", "checkpoint") for md5 in damaged(objects_of(path)[0])],
        "stored": check_files(stored()).weights_digest,
    }


def attempted(case: str) -> dict[str, object]:
    """What the forget flow says of the damage, and what the stores hold then."""
    try:
        globals()[case]()
    except PermissionError:
        return {"skipped": "no file system may be mounted here"}
    said = ""
    try:
        forget(LINE)
    except Exception as error:  # of the system's errors too: `sau` makes one line of them
        said = f"{type(error).__name__}: {error}"
    for place in (Path(settings().remote_url), settings().state):
        free(place)
    registry, ledger = Registry(), Ledger(settings().ledger_url)
    (request,), leader = ledger.list(LINE), registry.find(LINE)
    found = {
        "said": said,
        "state": request.state,
        "leader": leader and leader.number,
        "versions": len(registry.all(LINE)),
        "tags": list(tagged_versions(settings().root, LINE)),
        "work": [path.name for path in (settings().state / "work").iterdir()],
    }
    found["doctor"] = [finding.words for finding in doctor(LINE, bytes_too=False)]
    return found | {"then": ledger.get(request.id).state}


def begun() -> None:
    """A first version that leads, in every store."""
    prepare()
    begin([LINE])
    Workspace("attempt").push()
    Workspace("attempt").close()


def main() -> None:
    loaded = settings()
    in_child(begun)
    result: dict[str, object] = {"whole": in_child(found_of, "nothing")}
    stores = Stores(loaded.root.parent / "kept", loaded.root / ".git", loaded.root / ".dvc" / "cache", loaded.state)
    for case in [case for case in CASES if case.__name__ in (sys.argv[1:] or case.__name__)]:
        result[case.__name__] = in_child(found_of, case.__name__)
        stores.put_back()
    result["remote_refilled"] = in_child(found_of, "remote_deleted", True)
    stores.put_back()
    result["attempted"] = attempts = {}
    from prefect.context import refresh_global_settings_context  # it reads its environment when it is imported

    with prefect_server():
        refresh_global_settings_context()  # Prefect was imported before its server was there
        for case in [case for case in ATTEMPTED if case.__name__ in (sys.argv[1:] or case.__name__)]:
            attempts[case.__name__] = in_child(attempted, case.__name__)
            unmount()
            stores.put_back()
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
