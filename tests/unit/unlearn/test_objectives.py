"""Objectives: hand-derived numbers, limits, and that padding never enters a loss."""

import copy
import math

import pytest
import torch
from torch import Tensor

from sau.data.demo import demo_rows
from sau.errors import ConfigError
from sau.models.batches import Batch, Encoded, collate
from sau.models.language_model import LanguageModel
from sau.models.outputs import Outputs, forward
from sau.registry import build, discover
from sau.unlearn.objectives.base import Objective, Setting
from sau.unlearn.objectives.ce_u import ce_u_loss
from sau.unlearn.objectives.grad_diff import kl_to_reference
from sau.unlearn.objectives.idk_dpo import dpo_loss
from sau.unlearn.objectives.me import kl_from_uniform
from sau.unlearn.objectives.npo import npo_loss
from sau.unlearn.objectives.pdu import logit_margin
from sau.unlearn.objectives.rmu import mse_per_token
from sau.unlearn.objectives.satimp import satimp_loss
from sau.unlearn.objectives.simnpo import simnpo_loss
from sau.unlearn.objectives.undial import undial_loss
from sau.unlearn.objectives.wga import wga_loss

PACKAGE = "sau.unlearn.objectives"
CONFIGS = {name: {"name": name} for name in discover(Objective, PACKAGE)}
CONFIGS["pdu"]["eps"] = 1.0
CONFIGS["grad_diff_kl"] = {"name": "grad_diff", "retain": "kl"}


@pytest.fixture
def setting(dense):
    lm = copy.deepcopy(dense)
    forget, retain = demo_rows("a", seed=1)[:6], demo_rows("b", seed=1)[:6]
    return Setting(lm, forget, lm.encode(forget), lm.encode(retain), lm.encode(demo_rows("c", seed=1)))


def make(config) -> Objective:
    return build(Objective, PACKAGE, config)


def padded(batch: Batch, by: int, pad_id: int) -> Batch:
    def pad(x: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, by), value=value)

    return Batch(pad(batch.input_ids_BT, pad_id), pad(batch.attention_mask_BT, 0), pad(batch.answer_mask_BT, False))


def perturb(lm: LanguageModel) -> None:
    """Move the weights away from the reference, so that no difference to it is zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def outputs_of(nlls: list[list[float]]) -> Outputs:
    """Outputs with the given NLL per answer token, from two-token logits."""
    flat = torch.tensor([x for record in nlls for x in record])
    logits = torch.stack([-flat, torch.log1p(-torch.exp(-flat))], 1).requires_grad_()
    return Outputs(
        rows_B=torch.arange(len(nlls)),
        batch=collate([Encoded((0, 0), 1)]),
        logits_NV=logits,
        targets_N=torch.zeros(len(flat), dtype=torch.int64),
        sequence_N=torch.tensor([i for i, record in enumerate(nlls) for _ in record]),
        block_output_ND=None,
    )


# -- outputs --------------------------------------------------------------------------------------


def test_all_of_the_table_and_our_own_are_there():
    assert set(discover(Objective, PACKAGE)) == {
        "grad_ascent", "grad_diff", "npo", "simnpo", "idk_dpo", "rmu", "undial", "ce_u", "wga", "satimp", "me", "pdu",
        "calibrated",
    }  # fmt: skip


def test_outputs_hold_the_answer_tokens_and_no_others(setting):
    model, batch = setting.lm.model, collate(setting.forget)
    outputs = forward(model, batch, torch.arange(6), hidden_block=1)
    logp_BTV = model(batch.input_ids_BT).logits.detach().log_softmax(-1)
    for sequence, nll, logp_TV in zip(setting.forget, outputs.nll_B, logp_BTV, strict=True):
        answer = range(sequence.prompt_length, len(sequence.input_ids))
        assert nll.item() == pytest.approx(-sum(float(logp_TV[t - 1, sequence.input_ids[t]]) for t in answer), rel=1e-5)
    assert outputs.num_tokens_B.tolist() == [s.num_answer_tokens for s in setting.forget]
    assert outputs.hidden_ND.shape == (int(outputs.num_tokens_B.sum()), 32)
    # The last block's output, through the final norm and the head, is the logits.
    torch.testing.assert_close(model.lm_head(model.model.norm(outputs.hidden_ND)), outputs.logits_NV)
    assert not model.model.layers[1]._forward_hooks


def test_every_record_weighs_the_same():
    outputs = outputs_of([[1.0, 3.0], [5.0]])
    assert outputs.nll_B.tolist() == pytest.approx([4.0, 5.0])
    assert outputs.mean_nll.item() == pytest.approx((2.0 + 5.0) / 2)


# -- hand-derived numbers -------------------------------------------------------------------------


def test_ascent_and_difference():
    outputs = outputs_of([[1.0, 3.0], [5.0]])
    for name in ("grad_ascent", "grad_diff"):
        assert make(name).forget_loss(outputs, None).item() == pytest.approx(-3.5)
    assert make("grad_diff").retain_loss(outputs, None).item() == pytest.approx(3.5)
    assert not make("grad_ascent").has_retain_term


def test_npo_by_hand():
    # beta 1, one nat less likely than the reference: -2 log(1 / (1 + e^-1)).
    assert npo_loss(torch.tensor([3.0]), torch.tensor([2.0]), 1.0).item() == pytest.approx(2 * math.log1p(math.exp(-1)))
    assert npo_loss(torch.tensor([2.0, 7.0]), torch.tensor([2.0, 7.0]), 0.1).item() == pytest.approx(20 * math.log(2))


def test_simnpo_by_hand():
    assert simnpo_loss(torch.tensor([1.5]), 2.0, 1.0).item() == pytest.approx(math.log1p(math.exp(-1)))


def test_dpo_by_hand():
    lose, lose_reference, win, win_reference = (torch.tensor([x]) for x in (5.0, 2.0, 3.0, 4.0))
    loss = dpo_loss(lose, lose_reference, win, win_reference, 0.5)
    assert loss.item() == pytest.approx(4 * math.log1p(math.exp(-0.5 * (3.0 + 1.0))))


def test_undial_by_hand():
    # Equal reference logits, the answer's lowered by log 3: the target is (1/4, 3/4).
    loss = undial_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), math.log(3))
    assert loss.item() == pytest.approx(math.log(2))
    logits = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    undial_loss(logits, torch.zeros(1, 2), torch.tensor([0]), math.log(3)).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 2))  # the minimum is the lowered reference


def test_ce_u_by_hand():
    # Without the answer (token 0) the others have 1/4 and 3/4.
    logits = torch.tensor([[5.0, 0.0, math.log(3)]], requires_grad=True)
    loss = ce_u_loss(logits, torch.tensor([0]))
    logp = logits.log_softmax(1)[0]
    assert loss.item() == pytest.approx(-(0.25 * logp[1] + 0.75 * logp[2]).item())
    loss.sum().backward()
    torch.testing.assert_close(logits.grad[0], logits.softmax(1)[0].detach() - torch.tensor([0.0, 0.25, 0.75]))


def test_wga_by_hand():
    logp = torch.tensor([math.log(0.25)], requires_grad=True)
    loss = wga_loss(logp, 1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.25 * math.log(0.25))
    assert logp.grad.item() == pytest.approx(0.25)  # the weight is a constant


def test_satimp_by_hand():
    logp = torch.tensor([math.log(0.5)], requires_grad=True)
    loss = satimp_loss(logp, 5.0, 1.0)
    loss.sum().backward()
    assert logp.grad.item() == pytest.approx(0.5**6)
    assert loss.item() == pytest.approx(0.5**6 * math.log(0.5))
    assert satimp_loss(torch.tensor([1e-7]), 5.0, 0.5).isfinite().all()  # p a rounding above 1


def test_me_by_hand():
    assert kl_from_uniform(torch.zeros(1, 8)).item() == pytest.approx(0.0, abs=1e-6)
    logits = torch.tensor([[math.log(3.0), 0.0]])  # p = 3/4, 1/4
    expected = -math.log(2) - 0.5 * (math.log(0.75) + math.log(0.25))
    assert kl_from_uniform(logits).item() == pytest.approx(expected)


def test_rmu_by_hand():
    assert mse_per_token(torch.tensor([[1.0, 3.0]]), torch.tensor([0.0, 1.0])).tolist() == [2.5]


def test_pdu_by_hand_and_its_dual_moves_once_per_step():
    assert logit_margin(torch.tensor([[1.0, 2.0, 6.0]])).item() == pytest.approx(9.0)
    objective = make({"name": "pdu", "eps": 1.0, "eta": 0.5})
    state = objective.start(None)
    retain = outputs_of([[3.0], [3.0]])
    for _ in range(3):  # looking at the loss does not move the dual
        assert objective.retain_loss(retain, state).item() == pytest.approx(1.0 * (3.0 - 1.0))
    objective.after_step(state)
    assert state.multiplier == pytest.approx(2.0)
    assert objective.retain_loss(outputs_of([[0.5]]), state).item() == pytest.approx(2.0 * -0.5)
    for _ in range(20):
        objective.after_step(state)
        objective.retain_loss(outputs_of([[0.5]]), state)
    assert state.multiplier == 0.0


def test_kl_is_zero_with_zero_gradient_at_the_reference():
    logits = torch.randn(3, 7, requires_grad=True)
    loss = kl_to_reference(logits, logits.detach()).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(logits.grad, torch.zeros(3, 7), rtol=0, atol=1e-6)
    reference = torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kl_to_reference(torch.zeros(1, 2), reference).item() == pytest.approx(expected)


# -- limits ---------------------------------------------------------------------------------------


def _gradient(loss: Tensor, nll_B: Tensor) -> Tensor:
    return torch.autograd.grad(loss, nll_B)[0]


def test_npo_with_vanishing_beta_is_gradient_ascent():
    nll_B = torch.tensor([1.0, 4.0, 9.0], requires_grad=True)
    gradient = _gradient(npo_loss(nll_B, torch.tensor([2.0, 2.0, 2.0]), 1e-4), nll_B)
    torch.testing.assert_close(gradient, _gradient(-nll_B.mean(), nll_B), rtol=1e-3, atol=0)


def test_npo_with_large_beta_leaves_forgotten_rows_alone():
    nll_B = torch.tensor([9.0, 1.0], requires_grad=True)
    gradient = _gradient(npo_loss(nll_B, torch.tensor([2.0, 2.0]), 10.0), nll_B)
    assert abs(gradient[0]) < 1e-6
    assert gradient[1].item() == pytest.approx(-1.0, abs=1e-3)  # 2 * 1/2, all of the weight


def test_wga_and_satimp_without_weights_are_gradient_ascent():
    outputs = outputs_of([[0.5, 2.0], [1.0]])
    expected = make("grad_ascent").forget_loss(outputs, None)
    torch.testing.assert_close(make({"name": "wga", "beta": 0.0}).forget_loss(outputs, None), expected)
    satimp = make({"name": "satimp", "beta1": 0.0, "beta2": 0.0})
    torch.testing.assert_close(satimp.forget_loss(outputs, None), expected)


# -- every objective ------------------------------------------------------------------------------


def _loss_and_gradient(objective: Objective, setting: Setting, state, batch: Batch, part: str) -> list[Tensor]:
    model = setting.lm.model
    outputs = forward(model, batch, torch.arange(len(batch.input_ids_BT)), hidden_block=objective.hidden_block(model))
    loss = (objective.forget_loss if part == "forget" else objective.retain_loss)(outputs, state)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [loss.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("part", ["forget", "retain"])
@pytest.mark.parametrize("name", CONFIGS)
def test_more_padding_changes_nothing(setting, name, part):
    objective = make(CONFIGS[name])
    if part == "retain" and not objective.has_retain_term:
        pytest.skip("no retain term")
    state = objective.start(setting)
    perturb(setting.lm)
    batch = collate(setting.forget if part == "forget" else setting.retain)
    reference = _loss_and_gradient(objective, setting, state, batch, part)
    assert reference[0].isfinite()
    assert any(bool(g.abs().sum() > 0) for g in reference[1:])
    # Padded with eos: padding is known by position, never by token id.
    longer = padded(batch, 7, setting.lm.tokenizer.eos_token_id)
    for before, after in zip(reference, _loss_and_gradient(objective, setting, state, longer, part), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_of_a_batch_is_the_mean_over_its_records(setting, name):
    """No broadcasting of [B] with [B, 1], and references found by row number, not by place in the batch."""
    objective = make(CONFIGS[name])
    state = objective.start(setting)
    perturb(setting.lm)
    model = setting.lm.model
    block = objective.hidden_block(model)

    def loss(rows: list[int]) -> float:
        batch = collate([setting.forget[i] for i in rows])
        outputs = forward(model, batch, torch.tensor(rows), hidden_block=block)
        return objective.forget_loss(outputs, state).item()

    assert loss([4, 1, 3]) == pytest.approx((loss([4]) + loss([1]) + loss([3])) / 3, rel=1e-4)


@pytest.mark.parametrize("name", ["npo", "idk_dpo"])
def test_references_stay_those_of_before_the_first_step(setting, name):
    objective = make(name)
    state = objective.start(setting)
    batch, rows = collate(setting.forget), torch.arange(6)
    loss = objective.forget_loss(forward(setting.lm.model, batch, rows), state)
    assert loss.item() == pytest.approx(20 * math.log(2), rel=1e-4)  # no margin yet: -(2/0.1) log(1/2)
    perturb(setting.lm)
    assert objective.forget_loss(forward(setting.lm.model, batch, rows), state).item() != pytest.approx(loss.item())


def test_rmu_moves_only_the_mlp_outputs_below_its_block(setting):
    model = setting.lm.model
    objective = make({"name": "rmu", "block": 1})
    moving = [name for name, _ in model.named_parameters() if objective.trains(name, model)]
    assert moving == [f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)]
    with pytest.raises(ConfigError, match="block 2, the model has blocks 0 to 1"):
        make({"name": "rmu", "block": 2}).hidden_block(model)
    torch.manual_seed(0)
    assert objective.start(setting).target_D.norm().item() == pytest.approx(2.0)
