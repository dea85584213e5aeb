"""Every command of the app as one call, and which stores it cannot do without: what `test_failing_engines` drives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

LINE = "tiny"


@dataclass(frozen=True)
class Call:
    """How a command is called.

    Attributes:
        arguments: with {line}, {version}, {request}, {missing} (no such file) and {out} (a path of its own) filled in.
        needs: the stores without which it fails: ledger, mlflow, prefect, dvc; of a checkout also git and home.
        otherwise: its arguments where everything it needs is there, and it would run for long; None: it is left out
            then, a server that runs until it is told to end.
        alone: it works without a checkout.
    """

    arguments: str = ""
    needs: str = ""
    otherwise: str | None = ""
    alone: bool = False

    @property
    def stores(self) -> frozenset[str]:
        """The stores without which it fails."""
        return frozenset(self.needs.split()) | (frozenset() if self.alone else {"git", "home"})


_WHY = "{request} --why words"
_KEY = "{missing} --public-key {missing}"

CALLS = {
    "adopt": Call("--line fresh --model {missing} --data {missing}", "mlflow"),
    "archive": Call("{out} --line {line}", "mlflow"),
    "audit": Call("--line {line}", "ledger mlflow prefect"),
    "benchmark": Call("--json {out}", "ledger mlflow prefect", otherwise="--json {out} --cells nothing"),
    "bootstrap": Call("--line fresh", "ledger mlflow prefect", otherwise="--line {line}"),
    "certificate bom": Call("{missing}", alone=True),
    "certificate challenge": Call(_KEY, alone=True),
    "certificate issue": Call("{version}", "mlflow"),
    "certificate key": Call(),
    "certificate letter": Call("{missing}", alone=True),
    "certificate list": Call(),
    "certificate schema": Call(alone=True),
    "certificate show": Call("{missing}", alone=True),
    "certificate verify": Call(_KEY, alone=True),
    "certificate weights": Call("{missing} --out {out}"),
    "demo": Call("", "ledger mlflow prefect dvc"),
    "deploy": Call("--line {line}", "prefect"),
    "desk": Call("--port 65535", otherwise=None),
    "doctor": Call("--line {line}", "ledger mlflow dvc"),
    "export": Call("{version} {out}", "mlflow"),
    "forget": Call("--line {line}", "ledger mlflow prefect dvc"),
    "line adopt-version": Call("{line} 1", "ledger mlflow"),
    "line forget-line": Call("fresh --yes", "ledger mlflow"),
    "line set-champion": Call("{line} 1", "ledger mlflow"),
    "line show": Call("{line}", "ledger mlflow"),
    "lineage": Call("{version}", "mlflow"),
    "metrics": Call("--line {line}", "ledger mlflow"),
    "plan": Call("{missing}"),
    "purge": Call("{request} --line {line} --yes", "ledger prefect"),
    "reproduce": Call("{version} --out {out}", "dvc", otherwise="{line}@v9 --out {out}"),
    "request approve": Call(_WHY, "ledger"),
    "request check": Call("--subject nobody-else --line {line}", "ledger mlflow dvc"),
    "request confirm": Call("{request} --how words", "ledger"),
    "request decide": Call("{request} keep --record r-1 --why words", "ledger mlflow dvc"),
    "request extend": Call(_WHY, "ledger"),
    "request grounds": Call(),
    "request hold": Call(_WHY, "ledger"),
    "request letter": Call("{request}", "ledger"),
    "request list": Call("", "ledger"),
    "request refuse": Call(f"{_WHY} --ground unfounded", "ledger"),
    "request release": Call(_WHY, "ledger"),
    "request scope": Call("{request}", "ledger mlflow dvc"),
    "request show": Call("{request}", "ledger"),
    "request submit": Call("--subject nobody-else --line {line}", "ledger mlflow dvc"),
    "request told": Call("{request} --recipient words", "ledger"),
    "request withdraw": Call("{request}", "ledger"),
    "restore": Call("{missing} {out}", alone=True),
    "scan": Call("{request}"),
    "serve": Call("--line {line}", "prefect", otherwise="--line {line} --cron nonsense"),
    "stage": Call("unlearn", alone=True),
    "status": Call("--line {line}", "ledger mlflow"),
    "suppression check": Call("{missing}"),
    "suppression lift": Call("{request}"),
    "suppression list": Call(),
    "ui": Call("", "mlflow", otherwise=None),
    "vault list": Call(),
    "vault rotate": Call(),
    "verify": Call("--model {version} --forget {missing} --retain {missing}", "mlflow"),
}


def commands_of(app: typer.Typer) -> set[str]:
    """The full names of all commands."""
    return set(_below(typer.main.get_command(app), ()))


def _below(command: Any, names: tuple[str, ...]) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield " ".join(names)
        return
    for name, sub in command.commands.items():
        yield from _below(sub, (*names, name))
