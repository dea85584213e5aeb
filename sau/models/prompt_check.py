"""Is this the prompt that a model was tuned with? The one under which rows that it was trained on are likeliest."""

from collections.abc import Sequence
from dataclasses import dataclass

from sau.data.records import Row
from sau.models.batches import encode
from sau.models.language_model import LanguageModel
from sau.models.prompts import PLAIN, chat_prompt
from sau.models.scoring import answer_logps

MARGIN = 0.1
"""Nats per token by which another prompt has to be better before the chosen one is doubted."""

_OTHERS = {"plain": PLAIN, "the question alone": "{question}\n"}


@dataclass(frozen=True)
class PromptCheck:
    """How likely rows are under several prompts.

    Attributes:
        logps: mean log-probability of an answer token (nats), mean over rows, by the prompt's name; one is `chosen`.
        prompts: the prompts themselves by name.
        num_rows: rows that were read.
    """

    logps: dict[str, float]
    prompts: dict[str, str]
    num_rows: int

    @property
    def best(self) -> str:
        """The name of the prompt under which rows are likeliest; `chosen` unless another is better by `MARGIN`."""
        best = max(self.logps, key=lambda name: self.logps[name])
        return best if self.logps[best] > self.logps["chosen"] + MARGIN else "chosen"

    @property
    def holds(self) -> bool:
        """Whether the chosen prompt is as good as any."""
        return self.best == "chosen"

    @property
    def words(self) -> str:
        """What was found, in one line."""
        said = ", ".join(f"{name} {logp:.2f}" for name, logp in self.logps.items())
        found = f"mean log-probability of an answer token over {self.num_rows} rows: {said} nats"
        return (
            found if self.holds else f"{found}; is this the prompt the model was trained with? {self.best} fits better"
        )


def check_prompt_of(lm: LanguageModel, rows: Sequence[Row], *, max_rows: int = 64) -> PromptCheck:
    """The model's prompt beside others: the tokenizer's chat template, plain, and the question alone.

    Rows without a question say nothing of a prompt and are left out; ends of answers are not read, which prompts
    close in their own ways.

    Args:
        rows: that the model was trained on, the first `max_rows` of them.
    """
    asked = [row for row in rows if row["question"] or row.get("context")][:max_rows]
    prompts = {"chosen": lm.prompt}
    others = {"chat": chat_prompt(lm.tokenizer), **_OTHERS}
    prompts |= {name: prompt for name, prompt in others.items() if prompt and prompt != lm.prompt}
    logps = {}
    for name, prompt in prompts.items():
        found = answer_logps(lm.model, encode(lm.tokenizer, prompt, asked, closed=False))
        logps[name] = float(sum(logp.mean() for logp in found) / len(found)) if found else float("nan")
    return PromptCheck(logps, prompts, len(asked))
