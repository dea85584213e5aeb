"""git: its command whatever the user's configuration says, and the tags and commits of versions.

A version `<line>@v<N>` is an annotated git tag. Where SAU_GIT_REMOTE is set, tags are sent there and brought here.
"""

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sau.errors import WorkspaceError
from tasks.engines.leases import fence
from tasks.engines.settings import settings

TAG = re.compile(
    r"^(?P<line>[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.given-up-\d{8}T\d{6}(-retrain)?)?)@v(?P<number>[1-9]\d*)\Z"
)


def tag_name(line: str, number: int) -> str:
    """`<line>@v<N>`: the git tag of a version."""
    return f"{line}@v{number}"


def parse_tag(tag: str) -> tuple[str, int]:
    """(line, number) of a version's name.

    Raises:
        WorkspaceError: not of the form <line>@v<N>.
    """
    if not (match := TAG.match(tag)):
        raise WorkspaceError(f"version {tag!r}: has to look like tiny@v2")
    return match["line"], int(match["number"])


_NEUTRAL = {
    "core.hooksPath": os.devnull,  # a hook of DVC's would check out data in every worktree
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.safecrlf": "false",
    "core.sparseCheckout": "false",
    "core.fsmonitor": "false",
    "core.quotePath": "false",
    "color.ui": "false",
    "column.ui": "never",
    "submodule.recurse": "false",
    "tag.gpgSign": "false",
    "tag.forceSignAnnotated": "false",
}
"""What a user may have configured otherwise for their own work, and would change ours: the bytes of a worktree are
hashed, and nobody is there to type a passphrase."""


def git(root: Path, *args: str, env: dict[str, str] | None = None, stdin: str = "") -> str:
    """git's standard output, stripped; whatever the user's configuration and hooks say.

    Raises:
        WorkspaceError: git's own words (paths and refs, never file contents).
    """
    neutral = [word for name, value in _NEUTRAL.items() for word in ("-c", f"{name}={value}")]
    done = subprocess.run(
        ["git", *neutral, *args], cwd=root, input=stdin, capture_output=True, text=True,
        env={**os.environ, "GIT_ATTR_NOSYSTEM": "1", **(env or {})},
    )  # fmt: skip
    if done.returncode:
        raise WorkspaceError(f"git {args[0]}: {' '.join(done.stderr.split()) or f'exit {done.returncode}'}")
    return done.stdout.strip()


def author(root: Path) -> dict[str, str]:
    """A neutral author where git has none configured."""
    try:
        git(root, "config", "user.email")
        return {}
    except WorkspaceError:
        names = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
        return {
            n: v for keys, v in zip(names, ("sau", "sau@localhost"), strict=True) for n in keys if n not in os.environ
        }


def tagged_versions(root: Path, line: str) -> dict[int, str]:
    """The commits that a line's git tags name, by version number."""
    commit = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)"
    listed = git(root, "for-each-ref", f"--format=%(refname:strip=2) {commit}", f"refs/tags/{line}@v*")
    named = dict(entry.split(" ") for entry in listed.splitlines())
    return {int(match["number"]): named[tag] for tag in named if (match := TAG.match(tag))}


@dataclass(frozen=True)
class VersionCommit:
    """What a version's commit says by itself.

    Attributes:
        parents: the commit whose code ran, and that of the version before, where there is one.
        request_ids: what it was made for.
    """

    parents: tuple[str, ...]
    request_ids: tuple[str, ...]


def commit_of(root: Path, commit: str) -> VersionCommit:
    """A version's commit as it was written: also where a shallow clone cuts its parents off.

    Raises:
        WorkspaceError: no version's.
    """
    head, _, message = git(root, "cat-file", "commit", commit).partition("\n\n")
    parents = tuple(line.removeprefix("parent ") for line in head.splitlines() if line.startswith("parent "))
    if not 1 <= len(parents) <= 2:
        raise WorkspaceError(f"commit {commit[:12]}: has {len(parents)} parents, and is no version")
    return VersionCommit(parents, tuple(re.findall(r"\br-[0-9a-f]{16}\b", message)))


def tag_version(root: Path, tag: str, commit: str, message: str) -> None:
    """Tag a version; a tag that is there and means another commit is refused.

    Raises:
        LeaseError: meanwhile another attempt has the line.
        WorkspaceError: the tag is taken.
    """
    if git(root, "tag", "--list", tag):
        if git(root, "rev-parse", f"{tag}^{{commit}}") != commit:
            raise WorkspaceError(
                f"git tag {tag} exists and names another commit: this MLflow store and this repository disagree"
            )
        return
    fence()
    git(root, "tag", "--annotate", tag, commit, "-m", message, env=author(root))
    send_tags(root, [tag])


def fetch_tags(root: Path, line: str) -> None:
    """Bring the tags of a line's versions, and of those that expired, from SAU_GIT_REMOTE where it is set.

    Raises:
        WorkspaceError: it does not answer, or a tag names another commit there than here.
    """
    if remote := settings().git_remote:
        specs = [f"refs/tags/{name}@v*:refs/tags/{name}@v*" for name in (line, f"expired/{line}")]
        git(root, "fetch", "--no-tags", remote, *specs)


def bring_tag(root: Path, rev: str) -> None:
    """Bring a line's tags from SAU_GIT_REMOTE, where it is set, if a version's is asked for and not here."""
    if settings().git_remote and (match := TAG.match(rev)) and not git(root, "tag", "--list", rev):
        fetch_tags(root, match["line"])


def send_tags(root: Path, tags: Iterable[str]) -> None:
    """Send those of these tags that are here to SAU_GIT_REMOTE, where it is set, all or none.

    Raises:
        WorkspaceError: a tag names another commit there, or the remote does not answer.
    """
    if not (remote := settings().git_remote):
        return
    here = set(git(root, "tag", "--list").split())
    if names := [f"refs/tags/{tag}" for tag in tags if tag in here]:
        git(root, "push", "--atomic", "--quiet", remote, *names)


def rename_tags(root: Path, line: str, name: str) -> list[str]:
    """Give all of a line's tags another line's name, in one transaction; those that say what has expired as well.

    Returns:
        The tags as they were.
    """
    listed = git(root, "for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/tags/")
    moves: dict[str, tuple[str, str]] = {}
    for entry in listed.splitlines():
        tag, _, made = entry.rpartition(" ")
        if new := _renamed(tag, line, name):
            moves[tag] = new, made
    if moves:
        fence()
        lines = [
            f"create refs/tags/{new} {made}\ndelete refs/tags/{old} {made}\n" for old, (new, made) in moves.items()
        ]
        git(root, "update-ref", "--stdin", stdin="".join(lines))
    return list(moves)


def rename_sent_tags(root: Path, line: str, name: str) -> list[str]:
    """What `rename_tags` did here done at SAU_GIT_REMOTE, where it is set, in one push; done again it changes nothing.

    Returns:
        Tags of the line there that are another checkout's: they stay.

    Raises:
        WorkspaceError: the remote does not answer, or somebody moves these tags at the same time.
    """
    if not (remote := settings().git_remote):
        return []
    asked = [f"refs/tags/{name_there}@v*" for name_there in (line, f"expired/{line}")]
    specs, left = [], []
    for entry in git(root, "ls-remote", remote, *asked).splitlines():
        made, _, ref = entry.partition("\t")
        tag = ref.removeprefix("refs/tags/")
        if not (new := _renamed(tag, line, name)):
            continue  # of another line, or what a tag points to
        if git(root, "for-each-ref", "--format=%(objectname)", f"refs/tags/{new}") == made:
            specs += [f"--force-with-lease={ref}:{made}", f"refs/tags/{new}", f":{ref}"]
        else:
            left.append(tag)
    if specs:
        fence()
        options = [spec for spec in specs if spec.startswith("--")]
        git(root, "push", "--atomic", "--quiet", *options, remote, *(spec for spec in specs if spec not in options))
    return left


def _renamed(tag: str, line: str, name: str) -> str:
    """A tag of a line, or of what expired of it, with another line's name; "" where it is of another."""
    kept, version = ("expired/", tag[8:]) if tag.startswith("expired/") else ("", tag)
    match = TAG.match(version)
    return f"{kept}{tag_name(name, int(match['number']))}" if match and match["line"] == line else ""
