"""Verification of models and record files, whoever made them: no pipeline, no tracking server, no database."""

from collections.abc import Callable, Mapping
from pathlib import Path

from sau.checkpoint.digests import check_distinct, dense_digest, folder_digest
from sau.checkpoint.manifest import check_files, is_sparse
from sau.checkpoint.sparse import open_model
from sau.data import load_records
from sau.data.records import Row
from sau.data.sets import Sets
from sau.errors import CheckpointError, DataError
from sau.models.language_model import LanguageModel
from sau.models.placement import Placement
from sau.verify.battery import verify
from sau.verify.checks.base import Null
from sau.verify.policy import load_policy
from sau.verify.record import Verification
from sau.verify.report.answers import answers
from sau.verify.trial import Controls

Source = str | Path

HERE = Placement()


def verify_paths(
    model: Source,
    forget: Source,
    retain: Source,
    holdout: Source | None = None,
    before: Source | None = None,
    reference: Source | None = None,
    dense: Source | None = None,
    base: Source | None = None,
    policy: Source = "standard",
    *,
    num_stressors: int | None = None,
    null: Null | None = None,
    prompt: str = "auto",
    placement: Placement = HERE,
    subject: str | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Verify any Hugging Face causal-LM folder, hub id or sparse checkpoint against record files.

    Args:
        model, before, reference, dense, base: folders or hub ids; see `sau.verify.Controls`.
        forget, retain, holdout: `.jsonl` or `.parquet` files, folders of them, or hub data sets. Holdout people are
            what the shipped policies judge against: nobody among them may have been shown to unlearning.
        policy, num_stressors, null: quick, standard, strict, or a YAML file, and another budget or null than its own.
        prompt: how a question is put to a model whose folder does not say: auto, chat, plain or a text.
        placement: where models run, and in which numbers.
        subject: whom rows are about that name nobody.

    Raises:
        ConfigError, DataError, ModelError, CheckpointError: an input cannot be used, two controls have the same
            weights, or the model's files changed while it was verified.
    """

    def opener(source: Source | None) -> Callable[[], LanguageModel] | None:
        return _opener(source, prompt, placement)

    def rows(part: str, source: Source | None) -> list[Row]:
        found = [] if source is None else load_records(source, subject=subject).to_list()
        if nobody := sum(row["subject_id"] is None for row in found if part != "retain"):
            raise DataError(f"{source}: {nobody} rows of the {part} set are about nobody; --subject says whom")
        return found

    controls = {"before": before, "reference": reference, "base": base}
    check_distinct({role: weights_digest(source) for role, source in controls.items() if source is not None})
    files, digest = files_digest(model), weights_digest(model)
    result = verify(
        model=lambda: placement.put(open_model(model, prompt=prompt)),
        sets=Sets(rows("forget", forget), rows("retain", retain), rows("holdout", holdout)),
        controls=Controls(opener(before), opener(reference), opener(dense), opener(base)),
        policy=load_policy(policy, num_stressors=num_stressors, null=null),
        weights_digest=digest,
        seed=seed,
        progress=progress,
    )
    if files_digest(model) != files:
        raise CheckpointError(f"{model}: its files changed while it was verified")
    return result


def answer_paths(
    models: Mapping[str, Source | None],
    rows: Mapping[str, Source],
    *,
    prompt: str = "auto",
    placement: Placement = HERE,
    subject: str | None = None,
) -> list[dict[str, str]]:
    """What the models answer to a few rows of each file, for a report; see `sau.verify.report.answers.answers`.

    Raises:
        DataError: a row is not of the demo people.
    """
    return answers(
        {role: _opener(source, prompt, placement) for role, source in models.items()},
        {name: load_records(source, subject=subject).to_list() for name, source in rows.items()},
    )


def _opener(source: Source | None, prompt: str, placement: Placement) -> Callable[[], LanguageModel] | None:
    return None if source is None else lambda: placement.put(open_model(source, prompt=prompt))


def weights_digest(source: Source) -> str:
    """Of a sparse checkpoint's or a dense folder's weights.

    A hub id stands for itself: its bytes are not on this machine.

    Raises:
        CheckpointError, ModelError: damaged, or not readable.
    """
    folder = Path(source)
    if is_sparse(folder):
        return check_files(folder).weights_digest
    return dense_digest(folder) if folder.is_dir() else f"hub:{source}"


def files_digest(source: Source) -> str:
    """Of every file of a folder; empty for a hub id."""
    return folder_digest(Path(source)) if Path(source).is_dir() else ""
