"""Our metrics and open-unlearning's own functions on the same models, rows and tokens.

    python -m benchmarks.crosscheck --open-unlearning PATH [--smollm2]

Models: the tiny one, trained here on invented people, with a second one as reference that never saw the forget rows;
with --smollm2 also the untrained SmolLM2-135M-Instruct, its reference being itself with weights rounded to bfloat16.
Where two definitions differ by convention, `aligned` is our metric under theirs, computed from our readings; `why` says
what differs. Exit code 1 if an aligned number differs by more than 1e-4.
"""

import argparse
import contextlib
import copy
import dataclasses
import io
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks.open_unlearning import item, modules
from sau.data.demo import demo_rows
from sau.data.records import Row
from sau.models.batches import Encoded, collate
from sau.models.language_model import LanguageModel
from sau.models.scoring import logits_of, targets_of, token_logps
from sau.models.sources import ModelParams, base_model
from sau.training.finetune import FinetuneParams, finetune
from sau.verify.evidence.readings import MAX_NEW_TOKENS, Array, Reading, read
from sau.verify.metrics.exact_memorization import ExactMemorization
from sau.verify.metrics.extraction_strength import ExtractionStrength
from sau.verify.metrics.forget_quality import ForgetQuality
from sau.verify.metrics.mia_gradnorm import MiaGradnorm
from sau.verify.metrics.mia_loss import MiaLoss
from sau.verify.metrics.mia_min_k import MiaMinK
from sau.verify.metrics.mia_min_k_pp import MiaMinKPlusPlus
from sau.verify.metrics.mia_reference import MiaReference
from sau.verify.metrics.mia_zlib import MiaZlib
from sau.verify.metrics.model_utility import ModelUtility
from sau.verify.metrics.privleak import PrivLeak, privleak
from sau.verify.metrics.probability import Probability
from sau.verify.metrics.rouge_l_recall import RougeLRecall
from sau.verify.metrics.truth_ratio import TruthRatio

TOLERANCE = 1e-4
BATCH_SIZE = 8
EPOCHS = 8
SETS = ("forget", "retain", "holdout")
NO_EOS = "they leave the answer's eos out"


class Line(NamedTuple):
    """One row of the table."""

    metric: str
    ours: float
    theirs: float
    aligned: float
    why: str = ""


class Case(NamedTuple):
    """What is measured: a model, its reference, the rows of each set."""

    name: str
    lm: LanguageModel
    reference: LanguageModel
    rows: dict[str, list[Row]]


# -- their side -----------------------------------------------------------------------------------


class Theirs:
    """open-unlearning's metric functions, fed with our tokens."""

    def __init__(self, checkout: Path, tokenizer: Any) -> None:
        self.memorization, self.privacy, self.utility, self.mia, self.mia_utils, collators = modules(
            checkout,
            "evals.metrics.memorization",
            "evals.metrics.privacy",
            "evals.metrics.utility",
            "evals.metrics.mia",
            "evals.metrics.mia.utils",
            "data.collators",
        )
        self.tokenizer = tokenizer
        self.collate = collators.DataCollatorForSupervisedDataset(tokenizer, index="index")
        self.collate_left = collators.DataCollatorForSupervisedDataset(tokenizer, padding_side="left", index="index")

    def over(self, name: str, lm: LanguageModel, encoded: Sequence[Encoded]) -> dict[str, Any]:
        """A metric of theirs that reads one set, by name."""
        data = [item(sequence, i) for i, sequence in enumerate(encoded)]
        metric = getattr(self.memorization, name)
        return metric._metric_fn(lm.model, data=data, collators=self.collate, batch_size=BATCH_SIZE)

    def truth_ratio(self, lm: LanguageModel, rows: list[Row], aggregator: str) -> dict[str, Any]:
        wrong = [lm.encode({**row, "answer": text} for text in row["perturbed_answer"]) for row in rows]
        data = [{j: item(s, i) for j, s in enumerate(options)} for i, options in enumerate(wrong)]
        results = {
            "correct": self.over("probability", lm, lm.encode(rows, answer="paraphrased_answer")),
            "wrong": self.memorization.probability._metric_fn(
                lm.model, data=data, collators=self.collate, batch_size=BATCH_SIZE
            ),
        }
        return self.memorization.truth_ratio._metric_fn(lm.model, pre_compute=results, aggregator=aggregator)

    def rouge(self, lm: LanguageModel, rows: list[Row]) -> float:
        data = []
        for i, sequence in enumerate(lm.encode(rows)):
            ids = torch.tensor(sequence.input_ids)
            prompt = ids[: sequence.prompt_length]
            data.append({"input_ids": prompt, "labels": ids, "attention_mask": torch.ones_like(prompt), "index": i})
        greedy = {"do_sample": False, "top_p": None, "temperature": None, "max_new_tokens": MAX_NEW_TOKENS}
        result = self.memorization.rouge._metric_fn(
            lm.model,
            tokenizer=self.tokenizer,
            data=data,
            collators=self.collate_left,
            batch_size=BATCH_SIZE,
            generation_args=OmegaConf.create(greedy),
            rouge_type="rougeL_recall",
        )
        return result["agg_value"]

    def auc(self, attack: str, lm: LanguageModel, rows: dict[str, list[Row]], **options: Any) -> float:
        data = {name: [item(s, i) for i, s in enumerate(lm.encode(rows[name]))] for name in ("forget", "holdout")}
        size = 1 if attack == "GradNormAttack" else BATCH_SIZE  # theirs fails on a batch of two
        attacker = getattr(self.mia_utils, attack)
        return self.mia_utils.mia_auc(attacker, lm.model, data, self.collate, size, **options)["agg_value"]


# -- our side under their conventions -------------------------------------------------------------


def without_eos(reading: Reading) -> Reading:
    """The same reading with the last answer token, which is eos, left out."""
    answer = tuple(
        dataclasses.replace(
            t, logp_T=t.logp_T[:-1], correct_T=t.correct_T[:-1], mean_T=t.mean_T[:-1], std_T=t.std_T[:-1]
        )
        for t in reading.answer
    )
    return dataclasses.replace(reading, answer=answer)


def at_least_one_token(reading: Reading) -> float:
    """Extraction strength whose search for the prefix ends one token early: nothing extracted gives 1/n."""
    lengths = np.array([len(t.correct_T) for t in reading.answer])
    return float(np.maximum(ExtractionStrength().per_record(reading), 1 / lengths).mean())


def floored(reading: Reading) -> Reading:
    """Their floor is 1e-6 on the variance, ours on the standard deviation."""
    answer = tuple(dataclasses.replace(t, std_T=np.maximum(t.std_T, 1e-3)) for t in reading.answer)
    return dataclasses.replace(reading, answer=answer)


def answers_compressed(reading: Reading, rows: list[Row]) -> Reading:
    sizes = [len(zlib.compress(f" {row['answer']}".encode())) for row in rows]
    return dataclasses.replace(reading, zlib_bytes=np.array(sizes, dtype=float))


def mean_gradient_norms(lm: LanguageModel, encoded: Sequence[Encoded]) -> Array:
    """The mean over parameter tensors of each one's gradient norm, eos left out [N]."""
    parameters = list(lm.model.parameters())
    norms = []
    for sequence in encoded:
        batch = collate([Encoded(sequence.input_ids[:-1], sequence.prompt_length)])
        loss = -token_logps(logits_of(lm.model, batch), targets_of(batch)).mean()
        norms.append(float(torch.stack([g.norm() for g in torch.autograd.grad(loss, parameters)]).mean()))
    return np.array(norms)


def with_gradients(reading: Reading, lm: LanguageModel, rows: list[Row]) -> Reading:
    return dataclasses.replace(reading, gradient=mean_gradient_norms(lm, lm.encode(rows)))


# -- the comparison -------------------------------------------------------------------------------


def compare(case: Case, theirs: Theirs) -> list[Line]:
    """Every metric, both ways."""
    lm, reference, rows = case.lm, case.reference, case.rows
    parts = {
        "forget": frozenset({"truth_ratio", "rouge", "gradient"}),
        "retain": frozenset({"truth_ratio", "rouge"}),
        "holdout": frozenset({"gradient"}),
    }
    ours = {name: read(lm, rows[name], parts[name]) for name in SETS}  # type: ignore[arg-type]
    beside = {name: read(reference, rows[name], frozenset({"truth_ratio"})) for name in SETS}
    forget = lm.encode(rows["forget"])

    def each(change: Callable[..., Reading], *more: Callable[[str], Any]) -> dict[str, Reading]:
        return {name: change(ours[name], *(f(name) for f in more)) for name in SETS}

    no_eos, no_eos_beside = each(without_eos), {name: without_eos(beside[name]) for name in SETS}
    lines = []

    def line(name: str, our: float, their: float, aligned: float | None = None, why: str = "") -> None:
        lines.append(Line(name, our, float(their), our if aligned is None else aligned, why))

    for name in ("forget", "retain"):
        their = theirs.over("probability", lm, lm.encode(rows[name]))["agg_value"]
        line(f"probability, {name}", Probability().value(ours[name], name), their)
    aggregators = {"forget": "closer_to_1_better", "retain": "true_better"}
    their_ratios = {name: theirs.truth_ratio(lm, rows[name], how) for name, how in aggregators.items()}
    for name, result in their_ratios.items():
        line(f"truth ratio, {name}", TruthRatio().value(ours[name], name), result["agg_value"])
    their_rouge = {name: theirs.rouge(lm, rows[name]) for name in ("forget", "retain")}
    for name, value in their_rouge.items():
        line(f"ROUGE-L recall, {name}", RougeLRecall().value(ours[name], name), value)

    logs = {"retain_model_logs": {"retain": theirs.truth_ratio(reference, rows["forget"], "closer_to_1_better")}}
    p = theirs.privacy.ks_test._metric_fn(lm.model, pre_compute={"forget": their_ratios["forget"]}, reference_logs=logs)
    line("forget quality, log10 p", ForgetQuality().value(ours, beside), np.log10(p["agg_value"]))

    measures = [theirs.over("probability", lm, lm.encode(rows["retain"]))["agg_value"]]
    measures += [their_ratios["retain"]["agg_value"], their_rouge["retain"]]
    utility = theirs.utility.hm_aggregate._metric_fn(
        lm.model, pre_compute={str(i): {"agg_value": value} for i, value in enumerate(measures)}
    )
    line("model utility", ModelUtility().value(ours), utility["agg_value"])

    line(
        "exact memorization",
        ExactMemorization().value(ours["forget"], "forget"),
        theirs.over("exact_memorization", lm, forget)["agg_value"],
        ExactMemorization().value(no_eos["forget"], "forget"),
        NO_EOS,
    )
    line(
        "extraction strength",
        ExtractionStrength().value(ours["forget"], "forget"),
        theirs.over("extraction_strength", lm, forget)["agg_value"],
        at_least_one_token(no_eos["forget"]),
        f"{NO_EOS}, and give 1/n where nothing is extracted, we 0",
    )

    line("MIA loss", MiaLoss().value(ours), theirs.auc("LOSSAttack", lm, rows))
    line(
        "MIA zlib",
        MiaZlib().value(ours),
        theirs.auc("ZLIBAttack", lm, rows, tokenizer=lm.tokenizer),
        MiaZlib().value(each(answers_compressed, rows.__getitem__)),
        "they compress the answer, we question and answer",
    )
    line(
        "MIA reference",
        MiaReference().value(ours, beside),
        theirs.auc("ReferenceAttack", lm, rows, reference_model=reference.model),
    )
    min_k = {side: theirs.auc("MinKProbAttack", model, rows, k=0.4) for side, model in (("lm", lm), ("ref", reference))}
    line(
        "MIA min-k",
        MiaMinK().value(ours),
        theirs.auc("MinKProbAttack", lm, rows, k=0.2),
        MiaMinK().value(no_eos),
        NO_EOS,
    )
    line(
        "MIA min-k++",
        MiaMinKPlusPlus().value(ours),
        theirs.auc("MinKPlusPlusAttack", lm, rows, k=0.2),
        MiaMinKPlusPlus().value({name: floored(reading) for name, reading in no_eos.items()}),
        f"{NO_EOS}; floor on the variance, ours on the standard deviation",
    )
    gradients = {name: with_gradients(ours[name], lm, rows[name]) for name in ("forget", "holdout")}
    line(
        "MIA gradnorm",
        MiaGradnorm().value(ours),
        theirs.auc("GradNormAttack", lm, rows, p=2),
        MiaGradnorm().value(gradients),
        f"mean of each parameter's norm, ours the norm over all; {NO_EOS}",
    )
    their_leak = theirs.privacy.privleak._metric_fn(
        lm.model,
        pre_compute={"forget": {"agg_value": min_k["lm"]}},
        reference_logs={"retain_model_logs": {"retain": {"agg_value": min_k["ref"]}}},
    )
    attack = MiaMinK(k=0.4)
    line(
        "PrivLeak",
        PrivLeak().value(ours, beside),
        their_leak["agg_value"],
        privleak(attack.value(no_eos), attack.value(no_eos_beside)),
        NO_EOS,
    )
    return lines


def tiny_case() -> Case:
    """Two forget, three retain and two holdout people, few epochs: neither learned by heart nor unknown."""
    people = {"forget": (0, 1), "retain": (2, 3, 4), "holdout": (5, 6)}
    rows = {part: [r for n in numbers for r in demo_rows(f"cross-{n}", seed=0)] for part, numbers in people.items()}
    models = []
    for seen in (("forget", "retain"), ("retain",)):
        lm = base_model(ModelParams(), seed=0)
        finetune(
            lm, lm.encode([r for part in seen for r in rows[part]]), FinetuneParams(epochs=EPOCHS, lr=2e-3), seed=0
        )
        models.append(lm)
    return Case("tiny", models[0], models[1], rows)


def smollm2_case() -> Case:
    rows = {part: demo_rows(f"cross-{part}", seed=0)[:8] for part in SETS}
    lm = base_model(ModelParams(source="smollm2"), seed=0)
    lm.tokenizer.pad_token = lm.tokenizer.pad_token or lm.tokenizer.eos_token
    rounded = copy.deepcopy(lm.model).bfloat16().float()
    return Case("SmolLM2-135M-Instruct", lm, LanguageModel(rounded, lm.tokenizer, lm.prompt), rows)


def table(name: str, lines: Sequence[Line]) -> str:
    head = f"| {name} | ours | theirs | difference | aligned | difference | why |\n|---|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {x.metric} | {x.ours:.5f} | {x.theirs:.5f} | {abs(x.ours - x.theirs):.1e} | {x.aligned:.5f} | "
        f"{abs(x.aligned - x.theirs):.1e} | {x.why} |"
        for x in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="our metrics against open-unlearning's")
    parser.add_argument("--open-unlearning", type=Path, required=True, help="a checkout of open-unlearning")
    parser.add_argument("--smollm2", action="store_true", help="the untrained SmolLM2-135M-Instruct as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    worst = 0.0
    for make in (tiny_case, *([smollm2_case] if args.smollm2 else [])):
        case = make()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
            lines = compare(case, Theirs(args.open_unlearning, case.lm.tokenizer))
        print(table(case.name, lines), "\n")
        worst = max([worst, *(abs(x.aligned - x.theirs) for x in lines)])
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
