"""`sau export` and `sau restore`, and what a model is called on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sau.cli.app import app
from sau.cli.console import out

_resolvers: list[Callable[[str], Path | None]] = []


def add_resolver(resolve: Callable[[str], Path | None]) -> None:
    """Let models be named in a further way; `resolve` gives None for what is no name of its kind."""
    _resolvers.append(resolve)


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
        str | None, typer.Option(help="float32 (default) or bfloat16; what that rounds has to be verified again.")
    ] = None,
    delta: Annotated[
        str | None, typer.Option(help="Write the difference from this model, for somebody who has it (sau restore).")
    ] = None,
) -> None:
    """Write a sparse checkpoint as a dense Hugging Face folder that stock transformers and vLLM open.

    With --delta write only what changed since another version with the same mask; `sau restore` makes it whole."""
    from sau.checkpoint.archive import num_bytes
    from sau.checkpoint.delta import save_delta
    from sau.checkpoint.manifest import DTYPES, read_manifest
    from sau.checkpoint.sparse import export as write

    if dtype and dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r}: has to be one of {', '.join(DTYPES)}", param_hint="--dtype")
    if delta and dtype:
        raise typer.BadParameter("a delta is of the stored numbers, leave it out", param_hint="--dtype")
    checkpoint = Path(folder_of(model))
    if delta:
        save_delta(checkpoint, Path(folder_of(delta)), target)
        out.print(
            f"delta of {num_bytes(target):,} bytes ({num_bytes(checkpoint):,} whole) written to {target}; sau restore "
            f"{target} OUT --base FOLDER gives weights digest {read_manifest(checkpoint).weights_digest}",
            soft_wrap=True,
        )
        return
    write(checkpoint, target, dtype=dtype or "float32")
    out.print(f"dense folder written to {target}", soft_wrap=True)
    if dtype == "bfloat16" != read_manifest(checkpoint).dtype:
        out.print(
            f"its numbers are rounded: no verdict on {model} speaks of it. Judge it by itself:\n"
            f"sau verify --model {target} --before PARENT --forget ROWS --retain ROWS --holdout ROWS",
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
    out.print(f"restored to {target}, weights digest {manifest.weights_digest}", soft_wrap=True)
