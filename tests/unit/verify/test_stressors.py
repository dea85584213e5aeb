"""Stressors: what each does to a model, and the checks repeated after it."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from sau.errors import CheckpointError, ConfigError
from sau.mask import apply_mask, check_mask
from sau.models.language_model import LanguageModel
from sau.models.layers import prunable
from sau.registry import discover
from sau.verify.checks.base import Evidence
from sau.verify.checks.decoy_rank import DecoyRankCheck
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.likelihoods import mean_logps, sum_logps
from sau.verify.policy import Policy
from sau.verify.stressors.base import PACKAGE as STRESSORS
from sau.verify.stressors.base import Stressor, Surroundings
from sau.verify.stressors.densify import Densify
from sau.verify.stressors.prune_further import PruneFurther, input_norms, pruned_further
from sau.verify.stressors.relearn import Relearn
from sau.verify.stressors.round_weights import RoundWeights, rounded


@pytest.fixture
def around(sets):
    """What a stressor finds around a model."""
    return lambda dense=None: Surroundings(sets.forget, (), sets.retain, dense, seed=0)


def sparse(lm: LanguageModel) -> LanguageModel:
    own = replace(lm, model=copy.deepcopy(lm.model))
    mask = {f"{name}.weight": pruned_further(m.weight.detach(), 0.5) != 0 for name, m in prunable(own.model)}
    apply_mask(own.model, mask)
    return replace(own, mask=mask)


def test_rounding_by_hand():
    weight = torch.tensor([[7.0, 1.4, 0.0, -3.6], [0.0, 0.0, 0.0, 0.0]])
    assert rounded(weight, 4, 4).tolist() == [[7.0, 1.0, 0.0, -4.0], [0.0, 0.0, 0.0, 0.0]]
    assert rounded(weight, 4, 2).tolist()[0] == pytest.approx([7.0, 1.0, 0.0, -3.6])


def test_pruning_further_by_hand():
    weight = torch.tensor([[0.0, 0.0, 3.0, -1.0, 2.0, 5.0, 4.0, -6.0, 7.0, 8.0]])
    assert pruned_further(weight, 0.2).tolist() == [[0, 0, 3, 0, 0, 5, 4, -6, 7, 8]]
    assert pruned_further(weight, 1.0).tolist() == [[0.0] * 10]
    norm = torch.tensor([9.0, 9, 0, 9, 1, 1, 1, 1, 1, 1])  # 0 * 3 and 2 * 1 are least; what is zero goes first
    assert pruned_further(weight, 0.2, norm).tolist() == [[0, 0, 0, -1, 0, 5, 4, -6, 7, 8]]


def test_pruning_further_goes_by_what_the_rows_to_keep_put_in(around, before):
    lm, kept, by_hand = before, around().retain, {}
    norms = input_norms(lm, kept)

    def look(name):
        return lambda _module, args: by_hand.setdefault(name, []).append(args[0].flatten(0, -2))

    hooks = [matrix.module.register_forward_pre_hook(look(name)) for name, matrix in prunable(lm.model)]
    with torch.no_grad():
        for sequence in lm.encode(kept):
            lm.model(input_ids=torch.tensor([sequence.input_ids]))
    for hook in hooks:
        hook.remove()
    assert set(norms) == set(by_hand)
    for name, norm_I in norms.items():
        torch.testing.assert_close(norm_I, torch.cat(by_hand[name]).norm(dim=0), rtol=1e-4, atol=1e-4)
    changed = dict(prunable(PruneFurther(points=20, rows=len(kept)).apply(lm, around()).model))
    by_magnitude = dict(prunable(PruneFurther(points=20, rows=0).apply(lm, around()).model))
    for name, matrix in prunable(lm.model):
        assert torch.equal(changed[name].weight, pruned_further(matrix.weight, 0.2, norms[name]))
        assert torch.equal(by_magnitude[name].weight, pruned_further(matrix.weight, 0.2))


@pytest.mark.parametrize("stressor", [RoundWeights(bits=4), PruneFurther(points=10), Relearn(rows=2, epochs=1)])
def test_stressors_change_a_copy_and_keep_zeros(around, stressor, before):
    lm = sparse(before)
    kept = {name: value.clone() for name, value in lm.model.state_dict().items()}
    changed = stressor.apply(lm, around())
    assert all(torch.equal(value, kept[name]) for name, value in lm.model.state_dict().items())
    assert any(not torch.equal(value, kept[name]) for name, value in changed.model.state_dict().items())
    check_mask(changed.model, lm.mask)


def test_densify_takes_pruned_weights_from_the_parent(around, before):
    lm = sparse(before)
    filled = Densify().apply(lm, around(before))
    assert all(torch.equal(a, b) for a, b in zip(filled.model.parameters(), before.model.parameters(), strict=True))
    with pytest.raises(ConfigError, match="dense"):
        Densify().apply(lm, around())


def test_stressed_checks_are_repeated_with_the_control_treated_alike(verified, by_id, retrained, before, reference):
    policy = Policy.model_validate(
        {
            "name": "stressed",
            "version": 1,
            "against": "retrained",
            "metrics": ["probability"],
            "checks": ["residual_knowledge", "decoy_rank"],
            "stressed_checks": ["residual_knowledge"],
            "stressors": [
                {"name": "round_weights", "bits": 8},
                {"name": "prune_further", "points": 10},
                {"name": "relearn", "rows": 5, "epochs": 3, "lr": 1e-3},
                {"name": "densify", "mandatory": False},
            ],
            "num_decoys": 19,
        }
    )
    passed = verified(retrained, before, reference, policy)
    good, bad = by_id(passed), by_id(verified(before, before, reference, policy))
    for stressor in ("int8", "prune10", "relearn5"):
        assert good[f"residual_knowledge/{stressor}"].verdict == "PASS"
        assert bad[f"residual_knowledge/{stressor}"].verdict == "FAIL"
        assert good[f"residual_knowledge/{stressor}"].reference == 0.0
    assert good["residual_knowledge/densify"].verdict == "INCONCLUSIVE"
    assert not good["residual_knowledge/densify"].mandatory
    assert passed.verdict == "PASS"


def stressed_policy(*stressors, num_stressors=None) -> Policy:
    checks = ["residual_knowledge", "decoy_rank"]
    return Policy.model_validate(
        {
            "name": "stressed",
            "version": 1,
            "against": "retrained",
            "metrics": ["probability"],
            "checks": checks,
            "stressed_checks": checks,
            "stressors": stressors,
            "num_decoys": 19,
            "num_stressors": num_stressors,
        }
    )


def test_what_did_not_run_is_said(verified, retrained, before, reference):
    limits = " ".join(verified(retrained, before, reference).limits)
    assert "beyond the budget of 0, not run: densify, int4, prune10, relearn5." in limits
    bare = verified(retrained, before, reference, stressed_policy("densify"), forget=[]).limits
    assert any(all(n in limit for n in discover(Stressor, STRESSORS) if n != "densify") for limit in bare)


def test_a_mandatory_stressor_beyond_the_budget_is_no_pass(verified, by_id, retrained, before, reference):
    optional, mandatory = ({"name": "round_weights", "bits": 8, "mandatory": m} for m in (False, True))
    passed = verified(retrained, before, reference, stressed_policy(optional, num_stressors=0))
    assert passed.verdict == "PASS"
    assert not any("int8" in finding.id for finding in passed.checks)
    left_out = verified(retrained, before, reference, stressed_policy(mandatory, num_stressors=0))
    assert left_out.verdict == "INCONCLUSIVE"
    assert "beyond the budget of 0 stressors" in by_id(left_out)["residual_knowledge/int8"].reason


def test_densify_runs_with_the_dense_parent_and_says_why_it_did_not(verified, by_id, retrained, before, reference):
    policy = stressed_policy({"name": "densify", "mandatory": False})
    models = [sparse(lm) for lm in (retrained, before, reference)]
    ran = by_id(verified(*models, policy, dense=before))
    assert ran["residual_knowledge/densify"].n == 20
    assert ran["residual_knowledge/densify"].reference == 0.0

    def gone():
        raise CheckpointError("tiny@v1: no dense weights there")

    for dense, why in ((None, "was not given"), (gone, "tiny@v1: no dense weights there")):
        result = verified(*models, policy, dense=dense)
        finding_ = by_id(result)["residual_knowledge/densify"]
        assert finding_.verdict == "INCONCLUSIVE"
        assert why in finding_.reason
        if result.verdict == "PASS":
            assert any(why in reason for reason in result.reasons)


def test_relearning_is_read_as_excess_over_the_control_relearned_alike(
    around, verified, by_id, bench, sets, retrained, before, reference
):
    stressor = Relearn(rows=20, epochs=12, lr=3e-3)
    policy = stressed_policy(stressor)
    good, bad = (by_id(verified(model, before, reference, policy)) for model in (retrained, before))
    taught = stressor.apply(reference, around())

    def knows(lm):
        return mean_logps(lm, lm.encode(sets.forget)).mean()

    excess = (knows(stressor.apply(retrained, around())) - knows(taught)) / (knows(before) - knows(reference))
    assert good["residual_knowledge/relearn20"].value == pytest.approx(excess, abs=1e-3)
    secrets = find_secrets(sets.forget, sets.retain, sets.holdout, num_decoys=19, seed=0)
    texts = [{**sets.forget[s.row], "answer": t} for s in secrets for t in (sets.forget[s.row]["answer"], *s.decoys)]
    cuts = np.cumsum([1 + len(s.decoys) for s in secrets])[:-1]
    scores = tuple(np.split(sum_logps(taught, taught.encode(texts)), cuts))
    absolute = DecoyRankCheck().measure(Evidence({}, decoys=scores, exact=(True,) * 20), bench())
    assert absolute.value > 0.75, "relearning has taught even the control the true answers"
    for check_ in ("residual_knowledge", "decoy_rank"):
        assert good[f"{check_}/relearn20"].verdict != "FAIL"
        assert bad[f"{check_}/relearn20"].value > good[f"{check_}/relearn20"].value
    assert good["decoy_rank/relearn20"].reference == 0.5
    assert good["residual_knowledge/relearn20"].reference == 0.0
