"""Where a checkout lies and what its user has configured changes nothing of what is made in it."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing

import pytest

from tasks.engines.moved import put_right
from tests.small_line import PERSON, options

ODD = 'a #1, b "ü" [x]'
HOSTILE = """
[core]
    autocrlf = true
    eol = crlf
    hooksPath = {hooks}
    attributesFile = {hooks}/attributes
    excludesFile = {hooks}/excludes
    sparseCheckout = true
[commit]
    gpgsign = true
[tag]
    gpgSign = true
    forceSignAnnotated = true
[gpg]
    program = /bin/false
[init]
    defaultBranch = trunk
[color]
    ui = always
[column]
    ui = always
[status]
    showUntrackedFiles = no
"""
WORKTREE = """
import sys
from tasks.engines.settings import settings
from tasks.engines.pins import pins_at
from tasks.engines.repository import git, tag_version, tagged_versions
from tasks.engines.workspace import Workspace
ws = Workspace("bootstrap-odd-000000000000-00000000").open()
root = settings().root
print((ws.path / "params.yaml").read_bytes() == git(root, "show", "HEAD:params.yaml").encode() + b"\\n")
tag_version(root, "odd@v1", git(root, "rev-parse", "HEAD"), "odd@v1")
tag_version(root, "odd@v2", git(root, "rev-parse", "HEAD"), "odd@v2")
print(sorted(tagged_versions(root, "odd")), git(root, "tag", "--list", "odd@*").split())
ws.mark_prepared()
"""
TAKEN_UP = """
from tasks.engines.workspace import Workspace, take_up
left = Workspace("bootstrap-odd-000000000000-00000000")
name = take_up("bootstrap", "odd", "000000000000")
print(Workspace(name).path.exists(), left.path.exists())
"""

HALF_MADE = """
import json
from dataclasses import asdict, replace
from threading import Timer
from tasks.engines.leases import Process
from tasks.engines.settings import settings
from tasks.engines.workspace import Workspace
kept = settings().root / ".git" / "worktrees"
for name in ("of-the-dead", "under-way"):
    (kept / name).mkdir(parents=True)
    for file, text in (("gitdir", f"/nowhere/{name}/.git"), ("HEAD", "0" * 40), ("commondir", "")):
        (kept / name / file).write_text(text)
holder = Workspace("of-the-dead").holder
holder.parent.mkdir(parents=True, exist_ok=True)
holder.write_text(json.dumps(asdict(replace(Process.own(), begun=0.0))))
Timer(0.3, (kept / "under-way" / "commondir").write_text, ["../.."]).start()
print((Workspace("new").open().path / "params.yaml").exists(), *sorted(path.name for path in kept.iterdir()))
"""

VERSION = """
from tasks.engines.settings import settings
from tasks.engines.pins import pins_at
from tasks.engines.repository import commit_of, git, tag_version
from tasks.engines.workspace import scratch
root = settings().root
with scratch("odd") as ws:
    (ws.path / "data").mkdir(exist_ok=True)
    (ws.path / "data" / "rows.jsonl").write_text("{}")
    pin = ws.add("data")["data"]
    (ws.path / "dvc.lock").write_text("stages: {}")
    (ws.path / "metrics").mkdir(exist_ok=True)
    (ws.path / "metrics" / "one.json").write_text("{}")
    commit = ws.commit("odd", parents=[], surroundings={})
tag_version(root, "odd@v1", commit, "odd")
head = git(root, "rev-parse", "HEAD")
print(git(root, "rev-parse", "--is-shallow-repository"), pins_at(root, "odd@v1")["data"] == pin)
print(commit_of(root, commit).parents == (head,), git(root, "status", "--porcelain") == "")
"""


def hostile(folder):
    """A user's own git configuration: its path, and that of what its hooks write."""
    hooks = folder / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "post-commit", "reference-transaction"):
        hook = hooks / name
        hook.write_text(f"#!/bin/sh\ntouch '{folder}/ran-{name}'\nexit 1\n")
        hook.chmod(0o755)
    (hooks / "attributes").write_text("* text eol=crlf\n")
    (hooks / "excludes").write_text("*.yaml\n*.json\nmetrics\n")
    config = folder / "gitconfig"
    config.write_text(HOSTILE.format(hooks=hooks))
    return str(config)


def submodule(copy_checkout, folder):
    """A checkout that is a submodule of another repository, and shallow."""
    for part in ("upstream", "super"):
        (folder / part).mkdir(parents=True)
    around = type(upstream := copy_checkout(folder / "upstream"))(folder / "super")
    around.git("init", "--quiet")
    address = upstream.path.as_uri()
    around.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "--depth", "1", address, "unlearn")
    shutil.rmtree(upstream.path)
    return type(upstream)(around.path / "unlearn")


@pytest.fixture(scope="module")
def checkout(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("places") / ODD / "checkout")


def test_a_users_own_git_configuration_changes_no_byte_and_a_copy_leaves_the_original_alone(checkout, tmp_path):
    config = hostile(tmp_path)
    said = checkout.run(sys.executable, "-c", WORKTREE, GIT_CONFIG_GLOBAL=config).stdout.split("\n")
    assert said[:2] == ["True", "[1, 2] ['odd@v1', 'odd@v2']"]
    assert not list(tmp_path.glob("ran-*"))
    copied = type(checkout)(tmp_path / "copied")
    shutil.copytree(checkout.path, copied.path, symlinks=True)
    # In the copy the worktree is still the original's, and here it is what a killed attempt has left.
    assert copied.run(sys.executable, "-c", TAKEN_UP).stdout.split() == ["False", "False"]
    assert checkout.run(sys.executable, "-c", TAKEN_UP).stdout.split() == ["True", "False"]


def test_a_worktree_that_is_just_being_made_or_whose_maker_died_over_it_is_in_nobodys_way(copy_checkout, tmp_path):
    said = copy_checkout(tmp_path / "checkout").run(sys.executable, "-c", HALF_MADE).stdout.split()
    assert said == ["True", "new", "under-way"]


def test_a_version_is_made_in_a_checkout_that_is_a_shallow_submodule(copy_checkout, tmp_path):
    said = submodule(copy_checkout, tmp_path / ODD).run(sys.executable, "-c", VERSION).stdout.split()
    assert said == ["true", "True", "True", "True"]


def test_who_may_not_use_a_checkout_is_told_what_git_says(checkout, tmp_path):
    done = checkout.sau("request", "list", check=False, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    for words in ("dubious ownership", "git config --global --add safe.directory"):
        assert words in line
    odd = checkout.sau("request", "list", check=False, SAU_HOME=str(tmp_path / "50%?"))
    assert "no folder's name in it may have % or ?" in odd.stderr
    assert not (tmp_path / "50%?").exists()
    # As from one of git's own hooks, which would name another repository.
    said = checkout.sau("request", "list", GIT_DIR=str(tmp_path), GIT_INDEX_FILE=str(tmp_path / "index")).stdout
    assert said.strip() == "no requests"


def test_a_store_that_was_moved_finds_its_files(tmp_path):
    database, artifacts = tmp_path / "mlflow.db", tmp_path / "new" / "mlartifacts"
    (artifacts / "tiny").mkdir(parents=True)
    with closing(sqlite3.connect(database)) as opened:
        for table, column in (
            ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):  # fmt: skip
            opened.execute(f"create table {table} ({column} text)")
            places = ("/old/mlartifacts/tiny", "/old/mlruns/0", "s3://bucket/x", None)
            opened.executemany(f"insert into {table} values (?)", [(place,) for place in places])
        opened.commit()
        assert put_right(database, artifacts) == ["/old/mlartifacts"]
        for table, column in (("experiments", "artifact_location"), ("model_versions", "storage_location")):
            found = [place for (place,) in opened.execute(f"select {column} from {table}")]
            assert found == [str(artifacts / "tiny"), *places[1:]]
    assert put_right(database, artifacts) == []
    assert put_right(tmp_path / "none.db", artifacts) == []
    assert not (tmp_path / "none.db").exists()


@pytest.mark.long
def test_a_line_is_made_moved_and_judged_in_a_shallow_submodule_in_an_odd_place_with_hostile_settings(
    copy_checkout, tmp_path
):
    config, folder = hostile(tmp_path), tmp_path / ODD
    checkout, home = submodule(copy_checkout, folder), folder / "home #2, ö"
    env = {"GIT_CONFIG_GLOBAL": config, "SAU_HOME": str(home)}
    checkout.sau("bootstrap", *options(tmp_path), **env)
    (request,) = [json.loads(checkout.sau("request", "submit", "--subject", PERSON, "--json", **env).stdout)]

    moved = type(checkout)(tmp_path / "moved, ß" / "super" / "unlearn")
    moved.path.parent.parent.mkdir()
    checkout.path.parent.rename(moved.path.parent)
    new_home = tmp_path / "moved, ß" / "home"
    home.rename(new_home)
    env["SAU_HOME"] = str(new_home)
    assert "the stores agree" in moved.sau("doctor", **env).stdout
    outcome = json.loads(moved.sau("forget", "--reference", "--json", **env).stdout)
    assert (outcome["tag"], outcome["verdict"], outcome["champion"]) == ("tiny@v2", "PASS", True)
    assert not list(tmp_path.glob("ran-*"))
    assert moved.git("status", "--porcelain") == ""
    assert not [path for path in folder.rglob("*") if path.is_file()]  # nothing was written where it was before

    # The version is deleted in MLflow's page: what its run has recorded is its verdict when it is taken back.
    delete = "from mlflow import MlflowClient as C; import tasks.engines.tracking as t; t.Tracking().client"
    moved.run(sys.executable, "-c", f"{delete}.delete_model_version('tiny', '2')", **env)
    taken = json.loads(moved.sau("line", "adopt-version", "tiny", "2", "--by", "ada", "--json", **env).stdout)
    assert (taken["number"], taken["verdict"], taken["policy"]) == (3, "PASS", "wide")
    assert taken["verdict_run"] == outcome["run_id"]
    moved.sau("line", "set-champion", "tiny", "3", **env)
    (listed,) = json.loads(moved.sau("request", "list", "--json", **env).stdout)
    assert (listed["id"], listed["state"], listed["in_force"]) == (request["id"], "forgotten", True)
    assert "restored" in moved.sau("reproduce", "tiny@v2", "--out", str(tmp_path / "restored #1"), **env).stdout
