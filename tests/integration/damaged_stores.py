"""Run in a checkout: what a line's version is made of is damaged in one store after the other, and `doctor` is asked.

Prints JSON: case -> what was found, whether it stops, and what the stores hold afterwards.

    python tests/integration/damaged_stores.py [CASE ...]
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from flows.doctor import doctor
from sau.checkpoint.manifest import check_files
from sau.errors import SauError
from tasks.engines.cache import FOLDER, cached, damaged, listing
from tasks.engines.ledger import Ledger
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Workspace, git, pins_at
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


CASES: tuple[Callable[[], None], ...] = (
    row_in_cache, listing_in_cache, checkpoint_in_cache, cache_collected, row_in_both, row_in_remote, remote_deleted,
    weights_in_mlflow, weights_cut_in_mlflow, file_lost_in_mlflow, experiment_deleted, version_deleted, tag_deleted,
    tag_moved, ledger_damaged,
)  # fmt: skip


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
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
