"""What is known of a version: lineage, reproduction, archive."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli.options import Line, absolute
from flows.cli.requests import open_ledger
from sau.cli.app import app
from sau.cli.console import COLOURS, AsJson, out, plain, print_json, progress
from sau.errors import RequestError

if TYPE_CHECKING:
    from tasks.versions.reproduce import Reproduction


@app.command()
def lineage(
    what: Annotated[str, typer.Argument(help="A request id or a version such as tiny@v2.")], as_json: AsJson = False
) -> None:
    """Print the chain: version, request, data, mask, parent, down to the first version."""
    from tasks.engines.repository import parse_tag
    from tasks.versions.lineage import chain

    if "@" in what:
        line, number = parse_tag(what)
    else:
        request = open_ledger().get(what)
        if request.version is None:
            raise RequestError(f"request {what}: is {request.state}, no version was made for it yet")
        line, number = request.line, request.version
    links = chain(line, number)
    if as_json:
        print_json(links)
        return
    from rich.tree import Tree

    root = branch = Tree(f"lineage of {what}")
    for link in links:
        colour = COLOURS.get(link.verdict, "blue")
        head = f"[bold]{link.tag}[/] [{colour}]{link.verdict}[/] {' '.join(link.aliases)}"
        branch = branch.add(head)
        for request_id in link.request_ids:
            branch.add(f"request {request_id}, rows md5 {link.forget_md5}")
        branch.add(f"data md5 {link.data_md5}")
        branch.add(f"weights sha256 {link.weights_digest}")
        branch.add(f"mask sha256 {link.mask_digest}, sparsity {link.sparse_in_words}")
        branch.add(f"checkpoint md5 {link.checkpoint_md5}")
        branch.add(
            f"recipe commit {link.git_commit[:12]}, code {link.code_commit[:12]}, params {link.params_digest[:12]}"
        )
        if link.policy:
            branch.add(f"judged by policy {link.policy} against {link.against}, MLflow run {link.run_id}")
        if link.audited:
            branch.add(f"audited {link.audited}: {link.audit}")
    out.print(root)


@app.command()
def reproduce(
    version: Annotated[str, typer.Argument(help="A version such as tiny@v2.")],
    rerun: Annotated[bool, typer.Option("--rerun", help="Also run its recipe again and compare digests.")] = False,
    target: Annotated[
        Path | None, typer.Option("--out", help="Folder for the checkpoint; default models/<version> in .sau.")
    ] = None,
    remote: Annotated[
        str | None, typer.Option(help="DVC remote to read from; default SAU_DVC_REMOTE or the local one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a version's bytes back through DVC; with --rerun make them again. Exit 3 where the weights differ."""
    if remote:
        os.environ["SAU_DVC_REMOTE"] = absolute(remote)
    from tasks.engines.settings import settings
    from tasks.versions.reproduce import reproduce as run

    with progress():
        result = run(version, target or settings().state / "models" / version, rerun=rerun)
    if as_json:
        print_json(result.model_dump() | {"equal": result.equal})
    else:
        done = "was restored already, and is whole" if result.was_there else "restored"
        out.print(f"[bold]{result.tag}[/] {done}: {plain(result.folder)}", soft_wrap=True)
        out.print(f"weights digest {result.weights_digest}", soft_wrap=True)
        if result.difference:
            _print_difference(result)
    if not result.equal:
        raise typer.Exit(3)


def _print_difference(result: "Reproduction") -> None:
    found = result.difference
    assert found is not None
    if result.equal:
        out.print("made again: the weights are [green]bit-equal[/]")
    elif found.mask:
        out.print("made again: the mask [red]DIFFERS[/], so no weight is beside another")
    elif found.share_of_weights is None:
        out.print("made again: the weights [red]DIFFER[/] in names or shapes")
    else:
        how = f"{found.share_of_weights:.2%} of them, by {found.largest:.3g} at most"
        out.print(f"made again: the weights [red]DIFFER[/]: {how}")
    if found.side_files:
        names = ", ".join(found.files) or "the prompt"
        out.print(f"beside the weights [yellow]differ[/]: {plain(names)}", soft_wrap=True)
    for name, (then, now) in result.surroundings.items():
        out.print(f"  {name}: {then} then, {now} now", highlight=False)


@app.command()
def archive(
    folder: Annotated[Path, typer.Argument(help="The archive; made on first use, versions it has are left alone.")],
    line: Line = "tiny",
    max_hops: Annotated[int, typer.Option(min=0, help="Deltas that restoring any version may need at most.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Keep every version of a line in a folder: the newest whole, older ones as deltas where that is smaller."""
    from tasks.versions.archive import archive as run

    with progress():
        kept = run(line, folder, max_hops)
    if as_json:
        print_json(kept)
        return
    table = Table("version", "bytes", "deltas to apply", "weights digest")
    for version in kept:
        table.add_row(version.name, f"{version.num_bytes:,}", str(version.hops), version.weights_digest)
    out.print(table)
