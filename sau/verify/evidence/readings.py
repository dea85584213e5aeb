"""Reading a model: one forward pass per set of rows, kept as plain arrays of numbers without any text.

Metrics and checks are functions of these arrays, so a model is needed once and can be let go afterwards.
Shape suffixes: B sequences, T tokens, V vocabulary, N records.
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sau.data.records import Row
from sau.errors import DataError
from sau.models.batches import Encoded, by_length, collate
from sau.models.language_model import LanguageModel
from sau.models.layers import decoder_blocks
from sau.models.ranks import ranks_of
from sau.models.scoring import logits_of, targets_of, token_logps
from sau.verify.evidence.exits import exits, keeping, leaving_with
from sau.verify.evidence.in_forms import in_forms
from sau.verify.evidence.likelihoods import mean_logps

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

Array = NDArray[np.float64]

Part = Literal["truth_ratio", "rouge", "gradient", "forms", "exits"]
"""What a reading holds beyond the answer tokens; each costs extra passes."""

_POSITIONS = 512

MAX_NEW_TOKENS = 200


@dataclass(frozen=True)
class TokenScores:
    """One answer, teacher-forced.

    Attributes:
        logp_T: log-probability of each answer token, eos included, in nats.
        correct_T: the token is the model's most likely one.
        mean_T, std_T: of log p over the model's own next-token distribution (what min-k++ standardises by).
    """

    logp_T: Array
    correct_T: NDArray[np.bool_]
    mean_T: Array
    std_T: Array


@dataclass(frozen=True)
class Reading:
    """What one model says of one set of rows, in the order of the rows.

    Attributes:
        answer: token scores of each row's answer.
        truth: per row that has false answers: mean log-probability per token of the true answer (in other words
            where the row has them) [0] and of each false answer [1:]. None where not asked for.
        zlib_bytes: [N] size of the row's text after zlib, a model-free difficulty.
        rouge: [N] ROUGE-L recall of the greedy answer, None where not asked for.
        gradient: [N] norm of the loss gradient, None where not asked for.
        forms: by name of a form, [N] its score of the row, see `sau.verify.forms.base`, NaN where the row cannot be
            put so; empty where not asked for.
        exits: by number of blocks after which the model's head was read, [N] mean log-probability per token of the
            answer; empty where not asked for.
        encoding: a digest of the token ids, to notice models that read the same rows differently. Never stored.
    """

    answer: tuple[TokenScores, ...]
    zlib_bytes: Array
    encoding: str
    truth: tuple[Array, ...] | None = None
    rouge: Array | None = None
    gradient: Array | None = None
    forms: Mapping[str, Array] = field(default_factory=dict)
    exits: Mapping[int, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.answer)

    def take(self, rows: Sequence[int]) -> "Reading":
        """That of some of the rows, without what is known of rows by their false answers."""
        return replace(
            self,
            answer=tuple(self.answer[i] for i in rows),
            zlib_bytes=self.zlib_bytes[rows],
            truth=None,
            rouge=None if self.rouge is None else self.rouge[rows],
            gradient=None if self.gradient is None else self.gradient[rows],
            forms={name: values[rows] for name, values in self.forms.items()},
            exits={number: values[rows] for number, values in self.exits.items()},
        )


def read(
    lm: LanguageModel,
    rows: Sequence[Row],
    parts: frozenset[Part] = frozenset(),
    *,
    strangers: Sequence[Row] = (),
    form_rows: int | None = None,
    max_truths: int | None = None,
    batch_size: int = 32,
) -> Reading:
    """One model's reading of `rows`.

    Args:
        strangers: rows of people the model never saw, which forms may use.
        form_rows: of each person at most so many rows are put into a form, others into the next; None: all.
        max_truths: of so many rows at most the false answers are read, from all over the set; None: of all.
    """
    encoded = lm.encode(rows)
    places = exits(len(decoder_blocks(lm.model)[1])) if "exits" in parts else []
    answer, before_last = _scores_and_exits(lm, encoded, places, batch_size)
    return Reading(
        answer=tuple(answer),
        zlib_bytes=np.array([len(zlib.compress(f"{r['question']} {r['answer']}".encode())) for r in rows], dtype=float),
        encoding=_digest(encoded),
        truth=_truth(lm, _spread_out(rows, max_truths), batch_size) if "truth_ratio" in parts else None,
        rouge=_rouge(lm, rows) if "rouge" in parts else None,
        gradient=_gradient_norms(lm, encoded) if "gradient" in parts else None,
        forms=in_forms(lm, rows, strangers, form_rows, batch_size) if "forms" in parts else {},
        exits=before_last,
    )


def score_tokens(lm: LanguageModel, encoded: Sequence[Encoded], *, batch_size: int = 32) -> list[TokenScores]:
    """Token scores of each sequence's answer, in the order given.

    Raises:
        DataError: a sequence without answer tokens.
    """
    return _scores_and_exits(lm, encoded, [], batch_size)[0]


@torch.no_grad()
def _scores_and_exits(
    lm: LanguageModel, encoded: Sequence[Encoded], places: Sequence[int], batch_size: int
) -> tuple[list[TokenScores], dict[int, Array]]:
    """Token scores, and by exit the mean log-probability of each answer [N], from the same passes."""
    if empty := sum(s.num_answer_tokens < 1 for s in encoded):
        raise DataError(f"{empty} of {len(encoded)} sequences have no answer token")
    scores: list[TokenScores | None] = [None] * len(encoded)
    found = {place: np.zeros(len(encoded)) for place in places}
    batches, model = by_length(encoded, batch_size), lm.model.eval()
    parts = ranks_of(model).each(
        batches, lambda indices: _answer_positions(model, [encoded[i] for i in indices], places)
    )
    for indices, (rows_BN, early) in zip(batches, parts, strict=True):
        for i, columns in zip(indices, rows_BN, strict=True):
            logp, correct, mean, std = columns
            scores[i] = TokenScores(logp, correct.astype(bool), mean, std)
        for place, means_B in early.items():
            found[place][indices] = means_B
    return [s for s in scores if s is not None], found


def _answer_positions(
    model: Any, sequences: Sequence[Encoded], places: Sequence[int]
) -> tuple[list[Array], dict[int, Array]]:
    """Of a batch: per sequence an array [4, n_i] of logp, correct, mean and std of log p; by exit the mean logp [B]."""
    batch = collate(sequences).to(model.device)
    target_N, lengths = targets_of(batch), batch.answer_mask_BT.sum(1).tolist()
    with keeping(model, places) as states:
        logits_NV = logits_of(model, batch)
    early = {}
    for place, kept in states.items():
        with leaving_with(model, kept):
            logp_N = token_logps(logits_of(model, batch), target_N).double().cpu()
        early[place] = np.array([float(logp.mean()) for logp in logp_N.split(lengths)])
    columns = []
    # In slices: the full [N, V] in float32, three times over, would be gigabytes for a real vocabulary.
    for start in range(0, len(target_N), _POSITIONS):
        logp_NV = logits_NV[start : start + _POSITIONS].log_softmax(-1)
        target = target_N[start : start + _POSITIONS]
        p_NV = logp_NV.exp()
        mean = (p_NV * logp_NV).sum(-1)
        variance = (p_NV * (logp_NV - mean[:, None]).square()).sum(-1)
        logp = logp_NV.gather(-1, target[:, None])[:, 0]
        correct = (logp_NV.argmax(-1) == target).float()
        columns.append(torch.stack([logp, correct, mean, variance.sqrt()]))
    table = torch.cat(columns, dim=1).double().cpu().numpy()
    return np.split(table, np.cumsum(lengths)[:-1], axis=1), early


def _truth(lm: LanguageModel, rows: Sequence[Row], batch_size: int) -> tuple[Array, ...]:
    measured = [row for row in rows if row["perturbed_answer"]]
    variants = [[row["paraphrased_answer"] or row["answer"], *row["perturbed_answer"]] for row in measured]
    flat = [{**row, "answer": text} for row, texts in zip(measured, variants, strict=True) for text in texts]
    if not flat:
        return ()
    means = mean_logps(lm, lm.encode(flat), batch_size=batch_size)
    return tuple(np.split(means, np.cumsum([len(texts) for texts in variants])[:-1]))


def _rouge(lm: LanguageModel, rows: Sequence[Row]) -> Array:
    def recall(row: Row) -> float:
        return rouge_l_recall(lm.answer(row, max_new_tokens=MAX_NEW_TOKENS), row["answer"])

    return np.array(ranks_of(lm.model).each(rows, recall))


def _spread_out(rows: Sequence[Row], most: int | None) -> Sequence[Row]:
    """At most so many of the rows, in equal steps from the first on."""
    return rows if most is None or len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]


def _gradient_norms(lm: LanguageModel, encoded: Sequence[Encoded]) -> Array:
    """L2 norm of the gradient of the mean answer loss over all parameters, one sequence at a time [N]."""
    model = lm.model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def norm(sequence: Encoded) -> float:
        batch = collate([sequence]).to(model.device)
        loss = -token_logps(logits_of(model, batch), targets_of(batch)).mean()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return sum(float(g.double().square().sum()) for g in gradients if g is not None) ** 0.5

    with torch.enable_grad():
        return np.array(ranks_of(model).each(encoded, norm))


def _digest(encoded: Sequence[Encoded]) -> str:
    digest = hashlib.sha256()
    for sequence in encoded:
        digest.update(f"{sequence.prompt_length}:{','.join(map(str, sequence.input_ids))}\n".encode())
    return digest.hexdigest()


ModelSource = LanguageModel | Callable[[], LanguageModel]
"""A model, or how to open it: the latter lets the battery hold one at a time."""


def opened(source: ModelSource) -> LanguageModel:
    """The model behind a source."""
    return source if isinstance(source, LanguageModel) else source()


@cache
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer  # with nltk it takes a second to load

    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l_recall(candidate: str, target: str) -> float:
    """ROUGE-L recall in [0, 1], stemmer on: the share of the target's words the candidate has in the same order."""
    return float(_scorer().score(target, candidate)["rougeL"].recall)
