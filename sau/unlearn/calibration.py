"""How likely a row would be to a model that never saw it: an estimate that needs no retraining.

Rows differ in how hard they are to guess, so "as unlikely as the holdout" is the wrong goal for a row that is easy or
hard text. The base model, which saw neither, says how hard each token is; holdout rows say what the present model
makes of tokens of that difficulty without having seen them. Forgotten rows should look like that:

    target(token) = f(log p_base(token)) + shift(row)

f is the isotonic regression of the present model's log-probabilities on the base's over the holdout's answer tokens;
the shift is the line that is left between the rows' means (tokens of one row rise and fall together). This is the
difficulty calibration of membership inference (Watson et al. 2022, arXiv 2111.08440) turned into a goal; our own.
Without a base model every row's goal is the holdout's mean. Of the holdout only this curve is used. A verification on
the same holdout is therefore not independent of it in level; it is in what single rows do, and in the retrained model.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.models.scoring import answer_logps


def expected_logps(
    holdout: Sequence[Tensor], base_holdout: Sequence[Tensor], base_rows: Sequence[Tensor]
) -> list[Tensor]:
    """What a model would make of rows that it never saw, as it does of the holdout: f and shift above.

    Args:
        holdout, base_holdout: what the model and the base model make of each holdout row's answer tokens [n_i], nats.
        base_rows: what the base model makes of the rows in question.

    Returns:
        Per row the expected log-probability [n_i] of its answer tokens, float32.
    """
    hardness, order = torch.cat([*base_holdout]).sort(stable=True)
    level = isotonic_regression(torch.cat([*holdout])[order].numpy()).x

    def expected(base_logp: Tensor) -> np.ndarray:
        return np.interp(base_logp.numpy(), hardness.numpy(), level)

    guessed = np.array([expected(logp).mean() for logp in base_holdout])
    found = np.array([float(logp.mean()) for logp in holdout])
    slope, offset = np.polyfit(guessed, found, 1) if guessed.std() > 1e-6 else (1.0, (found - guessed).mean())
    targets = []
    for logp in base_rows:
        tokens = expected(logp)
        shift = slope * tokens.mean() + offset - tokens.mean()
        targets.append(torch.from_numpy(np.minimum(tokens + shift, 0.0)).float())
    return targets


class Calibration:
    """Targets for the forget rows under a model that changes.

    Attributes:
        targets: per forget row the log-probability [n_i] that its answer tokens should have, nats, on the CPU.
        holdout_logp: mean over the holdout's rows of the mean log-probability of their answer tokens, nats.
        per_token: whether single tokens have their own goals, which takes a base model.
    """

    def __init__(
        self, lm: LanguageModel, base: LanguageModel | None, forget: Sequence[Encoded], holdout: Sequence[Encoded]
    ) -> None:
        self.per_token = base is not None
        self._lm, self._forget, self._holdout = lm, forget, holdout
        self._base_forget = answer_logps(base.model, forget) if base else []
        self._base_holdout = answer_logps(base.model, holdout) if base else []
        self.fit()

    def fit(self) -> None:
        """Set `targets` by what the model makes of the holdout now."""
        seen = answer_logps(self._lm.model, self._holdout)
        mean = torch.stack([logp.mean() for logp in seen]).mean()
        self.holdout_logp = float(mean)
        if self.per_token:
            self.targets = expected_logps(seen, self._base_holdout, self._base_forget)
        else:
            self.targets = [mean.expand(row.num_answer_tokens) for row in self._forget]

    def mean_target(self, rows: Sequence[int]) -> float:
        """Mean over these forget rows of the mean target, nats per answer token."""
        return float(torch.stack([self.targets[row].mean() for row in rows]).mean())
