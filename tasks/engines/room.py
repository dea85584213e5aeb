"""Room: whether what an attempt will write can be written, asked before anything is trained."""

import os
import shutil
import tempfile
from pathlib import Path

from sau.errors import WorkspaceError
from tasks.engines.settings import settings

_PROBE = bytes(1 << 12)


def check_room(num_bytes: int = 0) -> None:
    """Refuse to begin where a store on this machine is read-only, full or no folder; of others nothing is known.

    Args:
        num_bytes: how many bytes each of them needs at least.

    Raises:
        WorkspaceError: the store, by its setting.
    """
    loaded = settings()
    places = {"SAU_HOME": loaded.state, "DVC's cache": loaded.root / ".dvc" / "cache"}
    if loaded.remote_folder:
        places["SAU_DVC_REMOTE"] = loaded.remote_folder
    for name, place in places.items():
        try:
            free = _free(place)
        except OSError as error:
            raise WorkspaceError(f"{name}: {place} cannot be written to ({error.strerror})") from None
        if free < num_bytes:
            raise WorkspaceError(f"{name}: {place} has {free:,} bytes left, at least {num_bytes:,} are needed")


def _free(place: Path) -> int:
    """How many bytes are left where a folder is or will be, which is written to on trial."""
    while not place.exists():
        place = place.parent
    with tempfile.TemporaryFile(dir=place) as probe:
        probe.write(_PROBE)
        probe.flush()
        os.fsync(probe.fileno())
    return shutil.disk_usage(place).free
