"""What a version's model card says of it: where it comes from and what it has forgotten, in ids and digests."""

import yaml

from sau.checkpoint.card import Story
from tasks.engines.repository import git, parse_tag
from tasks.engines.settings import settings
from tasks.versions.lineage import chain


def story_of_version(tag: str) -> Story:
    """The story of version `tag`, `<line>@v<N>`.

    Raises:
        RequestError, TrackingError, WorkspaceError: no such version, or the stores contradict each other.
    """
    links = chain(*parse_tag(tag))
    first, record = links[-1], links[0]
    source = yaml.safe_load(git(settings().root, "show", f"{first.git_commit}:params.yaml"))["model"]["source"]
    made = f"{first.origin}, weights (sha256) `{first.adopted}`" if first.adopted else "trained and pruned here"
    return Story(
        title=record.tag,
        base=f"`{source.rpartition('/')[2]}`, {made}",
        hub_id=source if source.count("/") == 1 and not source.startswith((".", "/")) else "",
        facts={
            "Data it may know (DVC md5)": f"`{record.data_md5}`",
            "Recipe, code (git)": f"`{record.git_commit[:12]}`, `{record.code_commit[:12]}`",
        },
        history=[
            (
                link.tag,
                ", ".join(f"`{request_id}`" for request_id in link.request_ids) or "none",
                link.verdict,
                link.policy or "none",
                link.against,
            )
            for link in links
        ],
    )
