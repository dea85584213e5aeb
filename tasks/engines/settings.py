"""Where things go: SAU_* environment variables, with defaults that need no server and no network.

Nothing here changes a number in a result; that is params.yaml's.
"""

import contextlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sau.errors import ConfigError
from sau.logs import JSON, as_json

KEPT = "cache"
"""In the state folder: what verifications leave for the next one. It may go at any time, and goes with every purge."""

_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
"""What git sets for its hooks and aliases: it would name their repository and index wherever git is run."""


def find_checkout() -> Path:
    """The project's git checkout that holds the current folder.

    Raises:
        ConfigError: not inside one, or there is no git.
    """
    for name in _OF_A_HOOK:
        os.environ.pop(name, None)
    try:
        command = ["git", "rev-parse", "--show-toplevel"]
        found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except OSError as error:
        raise ConfigError(f"git: cannot be run ({error.strerror}), and this runs from a git checkout") from None
    root = Path(found.stdout.removesuffix("\n"))
    if found.returncode and "not a git repository" not in found.stderr:
        said = " ".join(found.stderr.split())
        raise ConfigError(f"{Path.cwd()}: git: {said}")  # whose folder it is, say, and what helps
    if found.returncode or not (root / "params.yaml").is_file() or not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{Path.cwd()}: not inside a checkout of the project (git, with params.yaml and dvc.yaml)")
    return root


class Settings(BaseSettings):
    """Settings, each by its SAU_ variable; `SAU_HOME` moves everything local at once."""

    model_config = SettingsConfigDict(env_prefix="SAU_", frozen=True, env_ignore_empty=True)

    root: Path = Field(default_factory=find_checkout, description="the git checkout the product is run from")
    home: Path | None = Field(None, description="local state; default: .sau in the checkout")
    mlflow_tracking_uri: str = Field("", description="default: SQLite and artifacts below home")
    mlflow_wait_s: float = Field(30, ge=3, le=3600, description="how long a silent MLflow server is waited for, in all")
    lease_s: float = Field(60, ge=3, le=3600, description="an attempt that is silent for so long has lost its line")
    database_url: str = Field("", description="the ledger; default: SQLite below home, or a PostgreSQL URL")
    database_wait_s: float = Field(30, ge=1, le=3600, description="how long a locked or silent ledger is waited for")
    dvc_remote: str = Field("", description="default: a folder below home, or any DVC remote URL")
    git_remote: str = Field("", description="a git remote that versions' tags come from and go to; default: none")
    purge_after_days: int | None = Field(
        None, ge=0, description="the rollback window; none: nothing is purged by itself"
    )
    purge_people: int = Field(1, ge=1, le=5, description="from 2 on, so many different people have to approve a purge")
    signing_key: str = Field("", repr=False, description="an Ed25519 private key, PEM; default: a file below home")
    due_soon_days: int = Field(7, ge=0, le=90, description="a request with so many days left or fewer is due soon")
    confirm_identity: bool = Field(False, description="carry out only requests whose identity somebody confirmed")
    recipients_command: str = Field(
        "", description="run when another version leads, with what changed as JSON on stdin"
    )
    desk_users: str = Field(
        "", description="of `sau desk`, as ada=officer,eve=auditor; default: who starts it, officer"
    )
    desk_user_header: str = Field("", description="of `sau desk` behind a proxy: the header that says who is logged in")
    log_format: Literal["text", "json"] = Field("text", description="json: what runs log, as JSON lines on stderr")
    prefect_api_url: str = Field("", description="a Prefect server; default: embedded")

    @property
    def state(self) -> Path:
        return (self.home or self.root / ".sau").resolve()

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_tracking_uri or f"sqlite:///{self.state}/mlflow.db"

    @property
    def artifact_root(self) -> str | None:
        """Where a local MLflow store keeps artifacts; None where a server decides."""
        return None if self.mlflow_tracking_uri else str(self.state / "mlartifacts")

    @property
    def ledger_url(self) -> str:
        return self.database_url or f"sqlite:///{self.state}/ledger.db"

    @property
    def remote_folder(self) -> Path | None:
        """The DVC remote, where it is a folder of this machine; a relative one is below the checkout."""
        if "://" in self.dvc_remote:
            return None
        if not self.dvc_remote:
            return self.state / "remote"
        return Path(os.path.abspath(self.root / Path(self.dvc_remote).expanduser()))

    @property
    def remote_url(self) -> str:
        return str(self.remote_folder or self.dvc_remote)


def _make_private(given: Settings) -> None:
    """Let nobody but the owner read the state folder and DVC's cache, whatever the umask was, nor what is made later.

    They hold people's rows, who asked and why. DVC itself would make the folder of its site cache world-writable.
    """
    os.umask(os.umask(0) | 0o077)
    given.state.parent.mkdir(parents=True, exist_ok=True)
    site = given.state / "dvc-site" / "repo"
    for folder in (given.state, site.parent, site, given.root / ".dvc" / "cache"):
        if folder.parent.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            _close_to_others(folder)
    for database in (*given.state.glob("*.db*"), *given.state.glob("prefect/*.db*")):
        _close_to_others(database)


def _close_to_others(path: Path) -> None:
    """Take what group and others may do away; of somebody else's file that is refused, and it stays as it is."""
    with contextlib.suppress(PermissionError, FileNotFoundError):
        if (mode := path.stat().st_mode) & 0o077:
            path.chmod(mode & 0o700)


@cache
def settings() -> Settings:
    """The settings of this process; makes the state folder and sets the engines' environment.

    Raises:
        ConfigError: a setting that is not what it has to be, no checkout here, or a state folder that cannot be used.
    """
    try:
        loaded = Settings()
    except ValidationError as error:  # of values, which may be secrets, nothing is said
        words = (f"SAU_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_url=False))
        raise ConfigError("; ".join(words)) from None
    for name, place, breaks in (("SAU_HOME", loaded.state, "?%'"), ("checkout", loaded.root, "'")):
        if odd := set(breaks) & set(str(place)):
            raise ConfigError(
                f"{name} {place}: no folder's name in it may have {' or '.join(sorted(odd))}, which MLflow and SQLite "
                "take for something else"
            )
    try:
        _make_private(loaded)
    except OSError as error:
        where = Path(error.filename or loaded.state)
        hint = ", see SAU_HOME" if where == loaded.state or loaded.state in where.parents else ""
        raise ConfigError(f"{where}: cannot be used ({error.strerror}){hint}") from None
    defaults = {
        "PREFECT_HOME": str(loaded.state / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # a refused request is one line of ours, no traceback
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": loaded.tracking_uri,
        "MLFLOW_REGISTRY_URI": loaded.tracking_uri,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # after 2 and 4 s, which a restart may take
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(loaded.mlflow_wait_s / 3))),
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # of each run on a server, in front of what --json prints
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(loaded.state / "dvc-site"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_WAIT_POLICY": "passive",  # threads that spin make two processes on one machine five times slower
    }
    if loaded.prefect_api_url:
        defaults["PREFECT_API_URL"] = loaded.prefect_api_url
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if loaded.log_format == JSON:  # a worker's flow run comes by no command line
        as_json()
    os.environ["SAU_HOME"] = str(loaded.state)  # steps run elsewhere, and log there
    # Steps run as `python -m sau ...` below `dvc repro`: it has to be this Python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return loaded
