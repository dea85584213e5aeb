"""`sau export` and `sau restore`, and what a model is called on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sau.cli.app import app
from sau.cli.console import out, plain

if TYPE_CHECKING:
    from sau.checkpoint.card import Story

_resolvers: list[Callable[[str], Path | None]] = []
_tellers: list[Callable[[str], "Story | None"]] = []


def add_resolver(resolve: Callable[[str], Path | None], tell: Callable[[str], "Story | None"]) -> None:
    """Let models be named in a further way, and be told of; both give None for what is no name of their kind."""
    _resolvers.append(resolve)
    _tellers.append(tell)


def story_of(model: str) -> "Story | None":
    """What is known of a model besides its checkpoint; None where it is a folder."""
    if Path(model).is_dir():
        return None
    return next((story for tell in _tellers if (story := tell(model))), None)


def folder_of(model: str) -> str:
    """The folder of a model given by name: a path or hub id stands for itself."""
    if not Path(model).is_dir():
        for resolve in _resolvers:
            if folder := resolve(model):
                return str(folder)
    return model


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A sparse checkpoint folder, or in a checkout a version: tiny@v2.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; has to be empty or absent.")],
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16; default: as stored. What that rounds has to be verified again."
        ),
    ] = None,
    delta: Annotated[
        str | None, typer.Option(help="Write the difference from this model, for somebody who has it (sau restore).")
    ] = None,
) -> None:
    """Write a sparse checkpoint as the folder that stock transformers and vLLM open, with a model card.

    It is as it was served: dtype, number of files, chat template, generation config; and it is opened by stock
    transformers and compared, number by number, before it is there.

    With --delta write only what changed since another version with the same mask; `sau restore` makes it whole."""
    from sau.checkpoint.archive import num_bytes
    from sau.checkpoint.card import card_of
    from sau.checkpoint.delta import save_delta
    from sau.checkpoint.export import export as write
    from sau.checkpoint.manifest import DTYPES, read_manifest

    if dtype and dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r}: has to be one of {', '.join(DTYPES)}", param_hint="--dtype")
    if delta and dtype:
        raise typer.BadParameter("a delta is of the stored numbers, leave it out", param_hint="--dtype")
    checkpoint = Path(folder_of(model))
    if delta:
        save_delta(checkpoint, Path(folder_of(delta)), target, tried=True)
        out.print(
            f"delta of {num_bytes(target):,} bytes ({num_bytes(checkpoint):,} whole) written to {plain(target)}; "
            f"sau restore {plain(target)} OUT --base FOLDER gives weights digest "
            f"{read_manifest(checkpoint).weights_digest}",
            soft_wrap=True,
        )
        return
    stored = read_manifest(checkpoint)
    write(checkpoint, target, dtype=dtype, card=lambda manifest: card_of(manifest, story_of(model)))
    chosen = dtype or stored.dtype
    out.print(
        f"written to {plain(target)} in {chosen}; stock transformers opens it, nothing missing or unexpected, "
        f"{stored.sparsity:.2%} of {stored.num_weights:,} weights zero",
        soft_wrap=True,
    )
    if chosen not in (stored.dtype, "float32"):
        out.print(
            f"its numbers are rounded: no verdict on {plain(model)} speaks of it. Judge it by itself:\n"
            f"sau verify --model {plain(target)} --before PARENT --forget ROWS --retain ROWS --holdout ROWS",
            soft_wrap=True,
        )


@app.command()
def restore(
    stored: Annotated[Path, typer.Argument(help="A version in an archive, or a delta that `sau export` wrote.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; has to be empty or absent.")],
    base: Annotated[
        str | None, typer.Option(help="The model a delta starts from; default: looked for beside it by digest.")
    ] = None,
) -> None:
    """Make a stored version whole again, every file checked against its digest. Needs no MLflow, no DVC, no Prefect."""
    from sau.checkpoint.archive import restore as write
    from sau.checkpoint.delta import apply_delta

    manifest = apply_delta(stored, Path(folder_of(base)), target) if base else write(stored, target)
    out.print(f"restored to {plain(target)}, weights digest {manifest.weights_digest}", soft_wrap=True)
