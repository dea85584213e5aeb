"""`sau benchmark`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.options import absolute
from sau.cli.app import app
from sau.cli.console import out, plain, progress


@app.command()
def benchmark(
    json_file: Annotated[
        Path, typer.Option("--json", help="Where the result goes; finished cells are kept beside it as .jsonl.")
    ],
    size: Annotated[
        str, typer.Option(help="tiny (minutes), smollm2 (hours on CPU), or gpu (every cell of the real model).")
    ] = "tiny",
    cells: Annotated[
        str,
        typer.Option(
            help="Only cells like objective/method/pruner/sparsity/order/seed, with * and ?; several with commas."
        ),
    ] = "*",
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; default: the size's own.")] = None,
    data: Annotated[str, typer.Option(help="demo, or TOFU's folder or hub name.")] = "demo",
) -> None:
    """Compare SAU with its rivals, everyone with the same budget and measured sparse. Exit 0: it ran, whoever won."""
    from flows.servers import embedded_server

    server_is_up = embedded_server()
    with progress():
        from flows.benchmark import benchmark as run

        server_is_up()
        result = run(size, json_file, pattern=cells, num_seeds=seeds, data=absolute(data))
    table = Table("pruner", "sparsity", "order", "SAU / rival", "over seeds", title="distance to retraining")
    for row in result["ratio"]:
        spread = f"{row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f}"
        table.add_row(row["pruner"], str(row["sparsity"]), row["order"], f"{row['ratio']:.2f}", spread)
    out.print(table)
    out.print(f"{len(result['cells'])} cells; below 1 SAU is nearer; written to {plain(json_file)}", soft_wrap=True)
