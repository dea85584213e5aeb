"""Versions' tags between checkouts: each brings what the team's git remote has, and nobody's tag is moved."""

import subprocess

import pytest

from sau.errors import WorkspaceError
from tasks.engines.pins import pins_at
from tasks.engines.repository import (
    fetch_tags,
    git,
    rename_sent_tags,
    rename_tags,
    send_tags,
    tag_version,
    tagged_versions,
)
from tasks.engines.settings import settings
from tasks.versions.expiry import expire, expired
from tests.apart import own_settings


@pytest.fixture
def checkouts(tmp_path):
    """Two clones of a bare repository with one commit, which the settings name as the team's remote."""
    hub, first, second = (tmp_path / name for name in ("hub.git", "first", "second"))
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(hub)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(hub), str(first)], check=True, capture_output=True)
    commit(first, "start")
    git(first, "push", "--quiet", "origin", "HEAD:main")
    subprocess.run(["git", "clone", "--quiet", str(hub), str(second)], check=True)
    with own_settings(SAU_HOME=str(tmp_path / "home"), SAU_GIT_REMOTE="origin"):
        yield first, second


def commit(checkout, words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t.invalid")
    git(checkout, *identity, "commit", "--quiet", "--allow-empty", "--message", words)
    return git(checkout, "rev-parse", "HEAD")


def test_a_version_that_one_makes_the_other_has_and_what_expired_too(checkouts):
    first, second = checkouts
    made = commit(first, "version 1")
    tag_version(first, "tiny@v1", made, "PASS")
    tag_version(first, "other@v1", made, "PASS")
    fetch_tags(second, "tiny")
    assert tagged_versions(second, "tiny") == {1: made}
    assert tagged_versions(second, "other") == {}
    expire(second, "tiny@v1", "r-0123456789abcdef", "policy")
    fetch_tags(first, "tiny")
    assert expired(first, "tiny@v1") == expired(second, "tiny@v1")


def test_a_version_that_is_asked_for_is_brought(checkouts):
    first, second = checkouts
    (first / "data.dvc").write_text("outs:\n- {md5: d41d8cd98f00b204e9800998ecf8427e.dir, size: 0, path: data}\n")
    git(first, "add", "data.dvc")
    tag_version(first, "tiny@v1", commit(first, "version 1"), "PASS")
    assert pins_at(second, "tiny@v1")["data"].md5 == "d41d8cd98f00b204e9800998ecf8427e.dir"
    with pytest.raises(WorkspaceError, match="tiny@v2"):
        pins_at(second, "tiny@v2")


def test_what_an_attempt_could_not_send_goes_with_the_next_and_twice_is_once(checkouts, monkeypatch):
    first, second = checkouts
    monkeypatch.setenv("SAU_GIT_REMOTE", "")
    settings.cache_clear()
    tag_version(first, "tiny@v1", commit(first, "version 1"), "PASS")
    monkeypatch.setenv("SAU_GIT_REMOTE", "origin")
    settings.cache_clear()
    for _ in range(2):
        send_tags(first, ["tiny@v1", "expired/tiny@v1", "tiny@v2"])
    fetch_tags(second, "tiny")
    assert list(tagged_versions(second, "tiny")) == [1]


def test_a_tag_that_names_another_commit_there_is_refused_and_stays_on_both_sides(checkouts):
    first, second = checkouts
    theirs = commit(first, "version 1")
    tag_version(first, "tiny@v1", theirs, "PASS")
    mine = commit(second, "version 1, elsewhere")
    with pytest.raises(WorkspaceError, match=r"^git push: .*rejected.*tiny@v1"):
        tag_version(second, "tiny@v1", mine, "PASS")
    with pytest.raises(WorkspaceError, match=r"^git fetch: .*rejected.*tiny@v1"):
        fetch_tags(second, "tiny")
    assert (tagged_versions(first, "tiny"), tagged_versions(second, "tiny")) == ({1: theirs}, {1: mine})


def test_a_remote_that_is_not_there_is_named(checkouts, monkeypatch):
    monkeypatch.setenv("SAU_GIT_REMOTE", "nowhere")
    settings.cache_clear()
    with pytest.raises(WorkspaceError, match="nowhere"):
        fetch_tags(checkouts[0], "tiny")


def test_a_line_that_is_given_up_is_so_at_the_remote_and_anothers_tag_stays(checkouts):
    first, second = checkouts
    made = commit(first, "version 1")
    for tag in ("tiny@v1", "tiny-retrain@v1"):
        tag_version(first, tag, made, "PASS")
    expire(first, "tiny@v1", "r-0123456789abcdef", "policy")
    theirs = commit(second, "somebody else's")
    git(second, "tag", "--annotate", "tiny@v7", theirs, "-m", "PASS", "--no-sign")
    git(second, "push", "--quiet", "origin", "refs/tags/tiny@v7")
    name = "tiny.given-up-20261127T000000"
    rename_tags(first, "tiny", name)
    there = lambda: {  # noqa: E731
        line.split("refs/tags/")[1] for line in git(first, "ls-remote", "origin").splitlines() if "/tags/" in line
    }
    assert "tiny@v1" in there(), "dies here: the same call goes on"
    for _ in range(2):
        assert rename_sent_tags(first, "tiny", name) == ["tiny@v7"]
        found = {tag for tag in there() if not tag.endswith("^{}")}
        assert found == {f"{name}@v1", f"expired/{name}@v1", "tiny-retrain@v1", "tiny@v7"}
    assert tagged_versions(first, name) == {1: made}
