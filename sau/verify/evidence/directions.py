"""In how few directions a model differs from the one before: what an adapter has changed, who knows of it can take off.

For each matrix, with D the change of the weights that are there, the matrix L of rank k that explains most of D is
sought: singular value decomposition of D filled up with L where weights are pruned, again and again (hard-impute,
Mazumder, Hastie & Tibshirani 2010). A merged low-rank adapter is explained whole, mask or not.
"""

import torch
from torch import Tensor

from sau.models.language_model import LanguageModel, seeded
from sau.models.layers import prunable

_SHARE = 32  # a direction for so many of the smaller side
_ROUNDS = 15


def share_in_few_directions(lm: LanguageModel, before: LanguageModel) -> tuple[float, int] | None:
    """(share of the squared change of all matrices that a thirty-second of their directions explains, 0 where nothing
    has changed; how many matrices changed). None where the models do not have the same matrices."""
    named, earlier = (_matrices(model) for model in (lm, before))
    if not named or any(name not in earlier or earlier[name].shape != weight.shape for name, weight in named.items()):
        return None
    explained = total = 0.0
    changed = 0
    with torch.no_grad(), seeded(0):
        for name, weight_OI in named.items():
            change_OI = weight_OI.float() - earlier[name].to(weight_OI.device).float()
            kept_OI = (lm.mask or {}).get(name, torch.ones_like(change_OI, dtype=torch.bool)).to(weight_OI.device)
            change_OI = change_OI * kept_OI
            if size := float(change_OI.square().sum()):
                explained += size - float(_unexplained(change_OI, kept_OI))
                total += size
                changed += 1
    return explained / total if total else 0.0, changed


def _matrices(lm: LanguageModel) -> dict[str, Tensor]:
    """All that may be pruned, and the head, by name."""
    found = {matrix.name: matrix.weight.detach() for _, matrix in prunable(lm.model)}
    head = lm.model.get_output_embeddings()
    return found | ({"head": head.weight.detach()} if head is not None else {})


def _unexplained(change_OI: Tensor, kept_OI: Tensor) -> Tensor:
    """Squared change that no matrix of low rank explains."""
    rank = max(min(change_OI.shape) // _SHARE, 1)
    low_OI = torch.zeros_like(change_OI)
    for _ in range(_ROUNDS):
        u, s, v = torch.svd_lowrank(torch.where(kept_OI, change_OI, low_OI), q=rank, niter=2)
        low_OI = (u * s) @ v.T
    return ((change_OI - low_OI) * kept_OI).square().sum()
