"""`sau verify`."""

import json
import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sau.cli.app import app
from sau.cli.console import EXIT_CODES, ShowAnswers, print_checks, progress
from sau.cli.models import folder_of


class NullName(StrEnum):
    """What somebody looks like whom the model never saw."""

    population = "population"
    retrained = "retrained"


@app.command()
def verify(
    model: Annotated[
        str, typer.Option(help="Model folder (sparse or Hugging Face), hub id, or version such as tiny@v2.")
    ],
    forget: Annotated[Path, typer.Option(help="Rows to have been forgotten: JSONL, Parquet or a folder.")],
    retain: Annotated[Path, typer.Option(help="Rows to be kept.")],
    holdout: Annotated[
        Path | None, typer.Option(help="Rows of people no model ever saw, unlearning included: the null.")
    ] = None,
    before: Annotated[str | None, typer.Option(help="The model before unlearning: the positive control.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="A model retrained without the rows: one control more, or the null.")
    ] = None,
    dense: Annotated[
        str | None, typer.Option(help="The dense model that the sparse one comes from, for the stressor densify.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="A model that saw none of these rows: how hard it finds them is taken off.")
    ] = None,
    policy: Annotated[str, typer.Option(help="quick, standard, strict, or a policy file.")] = "standard",
    null: Annotated[
        NullName | None, typer.Option(help="What to judge against; default: what the policy says (people).")
    ] = None,
    stressors: Annotated[
        int | None, typer.Option(min=0, help="Run only so many of the policy's stressors; default: its own budget.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16: the numbers that models are run in.")] = "float32",
    autocast: Annotated[bool, typer.Option("--autocast", help="Matrix products in bfloat16.")] = False,
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt-format",
            "--prompt",
            help="How a question is put where the model's folder does not say: auto (its chat template, else plain), "
            "chat, plain, or a text with {question} in it.",
        ),
    ] = "auto",
    subject: Annotated[str | None, typer.Option(help="Who rows are about that name nobody.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report here.")] = None,
    show_answers: ShowAnswers = False,
) -> None:
    """Judge any causal language model, sparse or not, whoever unlearned it. Needs no Prefect and no MLflow."""
    from sau.config import checked
    from sau.models.placement import Placement
    from sau.models.prompts import check_prompt
    from sau.verify.report.page import render_html
    from sau.verify.standalone import answer_paths, verify_paths

    if show_answers and not html_file:
        raise typer.BadParameter("needs --html", param_hint="--show-answers")

    def folder(given: str | None) -> str | None:
        return folder_of(given) if given else None

    with progress():
        logger = logging.getLogger("sau")
        placement = checked(Placement, {"device": device, "dtype": dtype, "autocast": autocast}, "placement")
        check_prompt(prompt)
        models = {"before": folder(before), "after": folder_of(model), "reference": folder(reference)}
        # Before the battery: rows that may not be quoted are refused at once.
        rows: dict[str, str | Path] = {"forget": forget, "retain": retain}
        shown = None
        if show_answers:
            shown = answer_paths(models, rows, prompt=prompt, placement=placement, subject=subject)
        verification = verify_paths(
            model=folder_of(model),
            forget=forget,
            retain=retain,
            holdout=holdout,
            before=models["before"],
            reference=models["reference"],
            dense=folder(dense),
            base=folder(base),
            policy=policy,
            num_stressors=stressors,
            null=null.value if null else None,
            placement=placement,
            prompt=prompt,
            subject=subject,
            progress=lambda text: logger.debug("%s", text),
        )
    if json_file:
        json_file.write_text(json.dumps(verification.to_json(), indent=1) + "\n", encoding="utf-8")
    if html_file:
        title, facts = f"Verification of {Path(model).name}", {"Model": model}
        html_file.write_text(render_html(verification, title=title, facts=facts, answers=shown), encoding="utf-8")
    print_checks(verification)
    raise typer.Exit(EXIT_CODES[verification.verdict])
