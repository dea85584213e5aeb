"""Overlap of two texts."""

from functools import cache

from rouge_score.rouge_scorer import RougeScorer


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l_recall(candidate: str, target: str) -> float:
    """ROUGE-L recall in [0, 1], stemmer on: the share of the target's words the candidate has in the same order."""
    return float(_scorer().score(target, candidate)["rougeL"].recall)
