"""Goals for forget rows without retraining, and the objective that aims at them."""

import copy

import pytest
import torch

from sau.data.demo import demo_rows
from sau.data.sets import Sets
from sau.models.language_model import LanguageModel
from sau.models.scoring import answer_logps
from sau.training.finetune import AdaptParams, FinetuneParams, finetune
from sau.unlearn.calibration import Calibration
from sau.unlearn.objectives.base import Setting
from sau.unlearn.objectives.calibrated import Calibrated, calibrated_loss, divergence, said
from sau.unlearn.unlearn import UnlearnParams, mean_answer_logp, unlearn

FORGET = [row for person in ("a", "b") for row in demo_rows(person, seed=3)]
RETAIN = [row for person in ("c", "d") for row in demo_rows(person, seed=3)]
HOLDOUT = [row for person in ("e", "f", "g") for row in demo_rows(person, seed=3)]


@pytest.fixture(scope="module")
def base(tiny, lend):
    lm = tiny()
    rows = [row for number in range(40) for row in demo_rows(f"other-{number}", seed=3)]
    finetune(lm, lm.encode(rows), FinetuneParams(epochs=1, lr=0.003, batch_size=16), seed=0, num_threads=1)
    yield from lend(lm)


def trained_on(base: LanguageModel, rows) -> LanguageModel:
    lm = copy.deepcopy(base)
    finetune(lm, lm.encode(rows), FinetuneParams(epochs=40, lr=0.006, batch_size=16), seed=0, num_threads=1)
    return lm


@pytest.fixture(scope="module")
def original(base, lend):
    yield from lend(trained_on(base, FORGET + RETAIN))


@pytest.fixture(scope="module")
def retrained(base, lend):
    yield from lend(trained_on(base, RETAIN))


def calibration(lm: LanguageModel, base: LanguageModel | None) -> Calibration:
    return Calibration(lm, base, lm.encode(FORGET), lm.encode(HOLDOUT))


def test_a_model_that_changed_nothing_has_the_bases_own_level_as_its_goal(base):
    found = calibration(base, base)
    own = [logp.mean() for logp in answer_logps(base.model, base.encode(FORGET))]
    assert [float(t.mean()) for t in found.targets] == pytest.approx([float(v) for v in own], abs=0.05)


def test_the_goal_is_nearer_to_the_retrained_model_than_to_the_original(base, original, retrained):
    goal = calibration(original, base).mean_target(range(len(FORGET)))
    known, unknown = (mean_answer_logp(lm, lm.encode(FORGET)) for lm in (original, retrained))
    assert known - unknown > 0.5
    assert abs(goal - unknown) < 0.35 * (known - unknown)


def test_without_a_base_every_row_shares_the_holdouts_mean(original):
    found = calibration(original, None)
    mean = mean_answer_logp(original, original.encode(HOLDOUT))
    assert not found.per_token
    assert {round(float(t.mean()), 4) for t in found.targets} == {round(mean, 4)}


def test_goals_are_log_probabilities_of_every_answer_token(base, original):
    found = calibration(original, base)
    assert [len(t) for t in found.targets] == [row.num_answer_tokens for row in original.encode(FORGET)]
    assert all(bool((t <= 0).all()) for t in found.targets)


def test_the_loss_is_zero_at_the_goal_and_its_pull_is_bounded():
    goal = torch.tensor([-2.0, -2.0, -2.0])
    logp = torch.tensor([-2.0, -2.5, -0.0], requires_grad=True)
    loss = calibrated_loss(logp, goal, delta=1.0)
    assert loss.tolist() == pytest.approx([0.0, 0.125, 1.5])
    loss.sum().backward()
    assert logp.grad.tolist() == pytest.approx([0.0, -0.5, 1.0])  # up where it is too low, down where it is too high


def test_the_divergence_is_kl_over_the_vocabulary_where_every_other_token_is_named():
    logits_NV = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.3, 0.1, 0.0, 1.2]])
    token_N, goal_N = torch.tensor([1, 3]), torch.tensor([0.25, 0.6])
    others_NK = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    ids_NK = torch.tensor([[0, 2, 3], [0, 1, 2]])
    q_NV = (
        torch.zeros(2, 4)
        .scatter(1, ids_NK, (1 - goal_N)[:, None] * others_NK)
        .scatter(1, token_N[:, None], goal_N[:, None])
    )
    logp_NV = logits_NV.log_softmax(1)
    named = (logp_NV.gather(1, token_N[:, None])[:, 0], goal_N.log(), logp_NV.gather(1, ids_NK), others_NK)
    expected = (q_NV * (q_NV.log() - logp_NV)).sum(1)
    assert divergence(*named).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    # Two of three lumped with the rest: less, but never below zero.
    lumped = divergence(named[0], named[1], named[2][:, :1], others_NK[:, :1])
    assert bool(((lumped <= expected + 1e-5) & (lumped >= 0)).all())


def test_the_divergence_is_zero_at_its_goal_and_finite_at_certainty():
    logp_N, others_NK = torch.tensor([0.25]).log(), torch.tensor([[0.5, 0.3]])
    logp_NK = (0.75 * others_NK).log()
    assert float(divergence(logp_N, logp_N, logp_NK, others_NK)) == pytest.approx(0.0, abs=1e-6)
    sure = torch.zeros(1, requires_grad=True)
    loss = divergence(sure, logp_N, torch.full((1, 2), -30.0), others_NK)
    assert float(loss.detach()) > 3
    loss.sum().backward()
    assert bool(sure.grad.isfinite().all())


def test_what_is_said_is_each_token_of_the_answer_and_the_likeliest_others(base):
    sequences = base.encode(FORGET[:3])
    for sequence, others in zip(sequences, said(base.model, sequences, 5), strict=True):
        ids = torch.tensor([sequence.input_ids])
        with torch.no_grad():
            probs_NV = base.model(input_ids=ids).logits[0, sequence.prompt_length - 1 : -1].softmax(1)
        own_N1 = ids[0, sequence.prompt_length :, None]
        assert not bool((others.ids_NK == own_N1).any())
        expected = probs_NV.scatter(1, own_N1, 0.0)
        expected /= expected.sum(1, keepdim=True)
        torch.testing.assert_close(others.probs_NK, expected.topk(5).values, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(others.probs_NK, expected.gather(1, others.ids_NK), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(others.logp_N.exp(), probs_NV.gather(1, own_N1)[:, 0], rtol=1e-3, atol=1e-5)


def test_rows_to_keep_stay_by_their_divergence_from_the_model_before(base):
    lm = copy.deepcopy(base)
    vocabulary = lm.model.config.vocab_size
    sequences = lm.encode(RETAIN[:5])
    setting = Setting(lm, FORGET[:5], lm.encode(FORGET[:5]), sequences, lm.encode(HOLDOUT), None)
    rows_B = torch.tensor([4, 0, 2])
    kl = Calibrated(num_others=vocabulary - 1, retain="kl")
    state = kl.start(setting)
    loss = kl.retain_loss(setting.forward([sequences[i] for i in rows_B], rows_B), state)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-5), "nothing has moved"
    assert max(float(p.grad.abs().max()) for p in lm.model.parameters() if p.grad is not None) < 1e-4
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        found = float(kl.retain_loss(setting.forward([sequences[i] for i in rows_B], rows_B), state))
        expected = []
        for sequence in (sequences[i] for i in rows_B):
            ids = torch.tensor([sequence.input_ids])
            was, now = (
                model(input_ids=ids).logits[0, sequence.prompt_length - 1 : -1].log_softmax(1)
                for model in (base.model, lm.model)
            )
            expected.append(float((was.exp() * (was - now)).sum(1).mean()))
    assert found == pytest.approx(sum(expected) / 3, rel=1e-3)
    outputs = setting.forward([sequences[0]], torch.tensor([0]))
    nll = Calibrated()
    assert torch.equal(nll.retain_loss(outputs, nll.start(setting)), outputs.mean_nll)


def test_of_many_rows_to_keep_some_are_trained_on_and_the_others_change_nothing(base, original):
    def after(retain):
        lm = copy.deepcopy(original)
        params = UnlearnParams(objective="calibrated", lr=0.002, max_steps=3, max_retain_rows=10, stop=None)
        unlearn(lm, Sets(FORGET, retain, HOLDOUT), params, seed=0, num_threads=1)
        return torch.cat([parameter.view(-1) for parameter in lm.model.parameters()])

    chosen = torch.randperm(len(RETAIN), generator=torch.Generator().manual_seed(0))[:10].sort().values.tolist()
    assert torch.equal(after(RETAIN), after([RETAIN[i] for i in chosen]))


def test_an_adapted_base_guesses_more_like_the_retrained_model(base, original, retrained):
    def agreement(guess: LanguageModel) -> float:
        """Correlation over forget rows between the goal and the retrained model's log-probability."""
        goals = torch.stack([t.mean() for t in calibration(original, guess).targets])
        found = torch.stack([logp.mean() for logp in answer_logps(retrained.model, retrained.encode(FORGET))])
        return float(torch.corrcoef(torch.stack([goals, found]))[0, 1])

    adapted = copy.deepcopy(base)
    finetune(adapted, adapted.encode(RETAIN), FinetuneParams(epochs=5, lr=0.006, batch_size=16), seed=1, num_threads=1)
    assert agreement(adapted) > agreement(base) + 0.05


def test_unlearning_adapts_a_copy_of_the_base(base, original):
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    found = {}
    for adapt in (None, AdaptParams(epochs=1, lr=0.006, batch_size=16, max_rows=20)):
        params = UnlearnParams(objective="calibrated", lr=0.002, max_steps=2, adapt=adapt, stop=None)
        history = unlearn(
            copy.deepcopy(original), Sets(FORGET, RETAIN, HOLDOUT), params, seed=0, base=base, num_threads=1
        )
        found[adapt is None] = history.trajectory[0]["target_logp"]
    assert found[True] != found[False]
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.state_dict().items())
