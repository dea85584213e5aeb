"""The benchmark: grid, distances, that everyone is measured sparse, and that the comparison is fair."""

import dataclasses
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from sau.benchmark import (
    Cell,
    Reading,
    Spec,
    compare,
    digest,
    distances,
    encoded,
    frontier,
    goal_gap,
    grid,
    load_rows,
    load_spec,
    markdown,
    mean_target,
    prepare,
    rank,
    read,
    run_cell,
    side,
)
from sau.benchmark.cell import _place
from sau.benchmark.report import _undominated
from sau.checkpoint.sparse import open_model
from sau.config import merge, read_yaml
from sau.errors import ConfigError
from sau.mask import check_mask, fading_mask

ROOT = Path(__file__).parents[2]
SIZES = sorted((ROOT / "benchmarks").glob("*.yaml"))
DEFAULTS = read_yaml(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def spec() -> Spec:
    params = {
        "num_threads": 1,
        "model": {
            "tiny": {
                "vocab_size": 320,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_layers": 1,
                "num_heads": 2,
                "pretrain_people": 2,
            }
        },
        "train": {"epochs": 6, "lr": 0.005, "batch_size": 10},
        "recover": {"epochs": 1, "lr": 0.002, "batch_size": 10},
        "unlearn": {"fade_steps": 2, "objective": "grad_diff", "redistribution": {"name": "importance"}},
    }
    return Spec(
        params=merge(DEFAULTS, params),
        num_forget=1,
        num_retain=1,
        num_holdout=1,
        objectives={"grad_diff": {"objective": "grad_diff", "alpha": 1.0}},
        redistributions={"none": {"name": "none"}, "importance": {"name": "importance"}},
        pruners=("wanda",),
        sparsities=(0.0, 0.5, "2:4"),
        orders=("prune-unlearn", "unlearn-prune"),
        lrs=(0.002, 0.004),
        steps=3,
        num_seeds=1,
    )


@pytest.fixture(scope="module")
def prepared(spec, tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("seed-0")
    return folder, prepare(spec, "demo", 0, folder, [("none", 0.0), ("wanda", 0.5), ("wanda", "2:4")])


@pytest.mark.parametrize("path", SIZES, ids=lambda path: path.stem)
def test_every_size_loads_and_its_cells_are_different(path):
    spec = load_spec(path, DEFAULTS)
    cells = grid(spec)
    assert len({cell.id for cell in cells}) == len(cells)
    assert {side(cell.redistribution) for cell in cells} >= {"sau", "mask-only", "rival"}


def test_a_finished_cell_is_good_as_long_as_what_it_depends_on_stays(spec):
    cell = Cell("grad_diff", "importance", "wanda", 0.5, "prune-unlearn", 0)
    key = digest(spec, "demo", cell)
    grown = {
        "num_seeds": 5,
        "sparsities": (0.5, 0.9),
        "objectives": spec.objectives | {"npo": {"objective": "npo"}},
        "redistributions": spec.redistributions | {"compensated": {"name": "compensated"}},
        "params": spec.params.model_copy(update={"unlearn": spec.params.unlearn.model_copy(update={"lr": 0.5})}),
    }
    assert digest(spec.model_copy(update=grown), "demo", cell) == key
    changed = {
        "lrs": (0.002,),
        "steps": 4,
        "num_retain": 2,
        "objectives": {"grad_diff": {"objective": "grad_diff", "alpha": 2.0}},
        "redistributions": spec.redistributions | {"importance": {"name": "importance", "project": True}},
        "params": spec.params.model_copy(update={"num_threads": 2}),
    }
    others = [digest(spec.model_copy(update={name: value}), "demo", cell) for name, value in changed.items()]
    others += [digest(spec, "TOFU", cell), digest(spec, "demo", dataclasses.replace(cell, seed=1))]
    assert len({key, *others}) == 1 + len(others)


def test_the_grid_is_complete(spec):
    cells = grid(spec)
    # 2 orders x 2 sparsities x (2 masked + 2 rivals), and the dense one.
    assert len(cells) == 17
    assert [cell for cell in cells if cell.sparsity == 0] == [Cell("grad_diff", "dense", "none", 0.0, "none", 0)]
    assert cells[-1].id == "grad_diff/unmasked-new-mask/wanda/2:4/unlearn-prune/0"


@pytest.mark.parametrize("bad", ["lrs: []", "steps: 0", "surprise: 1", "sparsities: ['1:4']", "sparsities: [1.5]"])
def test_a_bad_size_is_refused(tmp_path, bad):
    key = bad.partition(":")[0]
    lines = [line for line in (ROOT / "benchmarks/tiny.yaml").read_text().splitlines() if not line.startswith(key)]
    (tmp_path / "bad.yaml").write_text("\n".join([*lines, bad]))
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_spec(tmp_path / "bad.yaml", DEFAULTS)


def reading(forget: float, retain: float, auc: float, *rows: float) -> Reading:
    return Reading(forget, retain, holdout_prob=0.4, auc=auc, forget_prob_N=np.array(rows))


def test_distances_by_hand():
    before = reading(0.9, 0.8, 0.99, 0.9, 0.9)
    known = {
        "original": before,
        "retrained": reading(0.3, 0.8, 0.4, 0.2, 0.4),
        "retrained-again": reading(0.5, 0.8, 0.6, 0.4, 0.6),
    }
    target = mean_target(known, {"original": 1.0, "retrained": 0.4, "retrained-again": 0.6})
    found = distances(reading(0.3, 0.6, 0.7, 0.3, 0.3), 0.9, before=before, target=target)
    assert found["average_distance"] == pytest.approx((0.1 + 0.2) / 2)
    assert found["forget_distance"] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert found["record_distance"] == pytest.approx(math.sqrt((0 + 0.2**2) / 2))
    assert found["utility"] == pytest.approx(0.75)
    assert found["distance_to_retrain"] == pytest.approx(math.hypot(0.7 / 3, 0.25))
    better = distances(reading(0.4, 0.9, 0.5, 0.3, 0.5), 0.5, before=before, target=target)
    assert better["utility"] > 1
    assert better["distance_to_retrain"] == pytest.approx(0.0)  # more utility than retrained is no distance
    unranked = distances(reading(0.3, 0.9, 0.7, 0.3, 0.3), None, before=before, target=target)
    assert unranked["distance_to_retrain"] == pytest.approx(unranked["average_distance"])
    assert "forget_distance" not in unranked


def test_a_user_prefers_what_is_near_the_goal_among_models_that_are_still_useful():
    before = reading(0.9, 0.8, 0.99)
    useful_far, useful_near, useless_near, useless = (
        rank(reading(0.4, retain, 0.5), before, gap)
        for retain, gap in ((0.8, 0.3), (0.73, 0.1), (0.7, 0.0), (0.1, 0.0))
    )
    assert sorted([useless, useless_near, useful_far, useful_near]) == [useful_near, useful_far, useless_near, useless]
    # What retain rows lose counts as well, what they gain does not.
    costly, free, better = (
        rank(reading(0.4, retain, 0.5), before, gap) for retain, gap in ((0.76, 0.05), (0.8, 0.1), (0.85, 0.1))
    )
    assert costly == (False, pytest.approx(math.hypot(0.4 * 0.05, 0.05)))
    assert costly > free == better


def test_a_model_that_never_saw_the_rows_is_nearer_to_the_goal(spec, prepared):
    folder, prompt = prepared[0], spec.params.model.prompt
    base = open_model(folder / "base-adapted", prompt=prompt)
    original, retrained = (open_model(folder / name, prompt=prompt) for name in ("original", "retrained"))
    sets = encoded(original, load_rows(spec, "demo", 0))
    known = read(base, sets)
    assert goal_gap(read(retrained, sets), known) < 0.5 * goal_gap(read(original, sets), known)


def test_references_are_read(prepared):
    rows = prepared[1]
    assert len(rows) == 9
    for place in {(row["pruner"], row["sparsity"]) for row in rows}:
        original, *retrained = (row for row in rows if (row["pruner"], row["sparsity"]) == place)
        # Both retrained models are equally far from their own mean, in opposite directions.
        assert retrained[0]["record_distance"] == pytest.approx(retrained[1]["record_distance"])
        assert original["record_distance"] > retrained[0]["record_distance"] > 0
        assert original["decoy_place"] > max(row["decoy_place"] for row in retrained)
    assert all(row["utility"] == 1 for row in rows if row["reference"] == "original")
    assert not list(prepared[0].glob("*.part"))


def test_every_method_is_measured_as_the_sparse_model_it_would_ship(spec, prepared, monkeypatch):
    seen = []

    def watching(lm, sets):
        seen.append(lm)
        if lm.mask is not None:
            check_mask(lm.model, lm.mask)
        return read(lm, sets)

    monkeypatch.setattr("sau.benchmark.cell.read", watching)
    for cell in (cell for cell in grid(spec) if cell.sparsity != "2:4"):
        seen.clear()
        _place.cache_clear()
        record = run_cell(spec, "demo", cell, prepared[0])
        assert [run["lr"] for run in record["runs"]] == [*spec.lrs]
        # A method that sees the mask coming unlearns for the two steps that others recover.
        sees_it_coming = cell.order == "unlearn-prune" and cell.redistribution in spec.redistributions
        assert {run["steps"] for run in record["runs"]} == {5 if sees_it_coming else 3}
        nearest = min(record["runs"], key=lambda run: run["distance_to_retrain"])
        assert all(record["informed"][key] == nearest[key] for key in ("lr", "average_distance"))
        chosen = next(run for run in record["runs"] if run["lr"] == record["lr"])
        assert chosen["forget_prob"] == record["forget_prob"]
        assert 0 <= record["decoy_place"] <= 1
        assert math.isfinite(record["utility"])
        base, *shipped = seen  # the base model is read once, for the goal
        assert base.mask is None
        assert len(shipped) == len(spec.lrs)
        assert all((lm.mask is None) == (cell.sparsity == 0) for lm in shipped)


@pytest.mark.parametrize("order", ["prune-unlearn", "unlearn-prune"])
def test_a_cell_is_the_same_whatever_ran_before_it(spec, prepared, order):
    cell = Cell("grad_diff", "importance", "wanda", 0.5, order, 0)
    _place.cache_clear()
    first = run_cell(spec, "demo", cell, prepared[0])
    for method in ("none", "unmasked-same-mask", "unmasked-new-mask"):
        run_cell(spec, "demo", dataclasses.replace(cell, redistribution=method), prepared[0])
    again = run_cell(spec, "demo", cell, prepared[0])
    for name in ("lr", "steps", "forget_prob", "retain_prob", "auc", "distance_to_retrain"):
        assert first[name] == again[name]


def test_a_fading_mask_goes_from_the_dense_function_to_the_sparse_one(spec, prepared):
    folder = prepared[0]
    prompt = spec.params.model.prompt
    dense, sparse = (open_model(folder / name, prompt=prompt) for name in ("original", "original-wanda-0.5"))
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        expected = dense.model(ids).logits
        with fading_mask(dense.model, sparse.mask) as fade:
            check_mask(dense.model, sparse.mask)
            torch.testing.assert_close(dense.model(ids).logits, expected, rtol=1e-4, atol=1e-5)
            fade(0.5)
            halfway = dense.model(ids).logits
            fade(0.0)
            faded = dense.model(ids).logits
        torch.testing.assert_close(dense.model(ids).logits, faded, rtol=0, atol=0)
        assert not torch.allclose(faded, expected, atol=1e-3)
        assert 0 < (halfway - expected).norm() < (faded - expected).norm()


def made(redistribution: str, seed: int, distance: float) -> dict:
    cell = Cell("npo", redistribution, "wanda", 0.5, "prune-unlearn", seed)
    names = ("distance_to_retrain", "forget_distance", "record_distance")
    numbers = dict.fromkeys(names, distance) | {"decoy_place": 0.5, "utility": 1.0}
    return asdict(cell) | numbers | {"lr": 0.1, "steps": 4, "seconds": 2.0, "at_edge": False}


def test_ratios_by_hand():
    # Each SAU method is lucky on one seed; the mean is 0.3 and 0.32. The rival has 0.2 on both.
    cells = [
        made("importance", 0, 0.1), made("importance", 1, 0.5),
        made("compensated", 0, 0.5), made("compensated", 1, 0.14),
        made("none", 0, 0.25), made("none", 1, 0.25),
        made("unmasked-new-mask", 0, 0.2), made("unmasked-new-mask", 1, 0.2),
    ]  # fmt: skip
    result = compare(cells, ("npo", "compensated"))
    (ratio,) = result["ratio"]
    # The two entries of the same result, seed by seed.
    assert result["sau"][0]["redistribution"] == "importance"
    assert (result["sau"][0]["lowest"], result["sau"][0]["highest"]) == (0.1, 0.5)
    assert result["rival"][0]["distance_to_retrain"] == pytest.approx(0.2)
    assert ratio["ratio_per_seed"] == pytest.approx([0.5, 2.5])
    assert ratio["ratio"] == pytest.approx((0.5 * 2.5) ** 0.5)
    assert (ratio["ratio_lowest"], ratio["ratio_highest"]) == pytest.approx((0.5, 2.5))
    assert ratio["ratio_to_mask_only_per_seed"] == pytest.approx([0.4, 2.0])
    # What was best on the other seed is bad on this one: more methods do not win by having more tickets.
    assert ratio["held_out_ratio_per_seed"] == pytest.approx([2.5, 2.5])
    # The shipped setup is not chosen: its own distances over the rival's, and over mask-only's.
    assert ratio["shipped_ratio_per_seed"] == pytest.approx([2.5, 0.7])
    assert ratio["shipped_ratio_to_mask_only_per_seed"] == pytest.approx([2.0, 0.56])


def test_with_one_seed_nothing_is_held_out():
    (ratio,) = compare([made("importance", 0, 0.1), made("unmasked-same-mask", 0, 0.4)], ("npo", "compensated"))[
        "ratio"
    ]
    assert ratio["ratio"] == pytest.approx(0.25)
    assert not any(name.startswith(("held_out", "shipped", "ratio_to_mask_only")) for name in ratio)


def test_a_setup_that_lacks_a_seed_is_not_chosen():
    cells = [made("importance", 0, 0.1), made("natural", 0, 0.2), made("natural", 1, 0.2)]
    cells += [made("unmasked-new-mask", seed, 0.4) for seed in (0, 1, 2)]
    result = compare(cells, ("npo", "natural"))
    assert result["sau"][0]["redistribution"] == "natural"
    assert result["ratio"][0]["ratio_per_seed"] == pytest.approx([0.5, 0.5])
    # Of a grid that is only begun, no setup may have every seed.
    begun = compare([made("importance", 0, 0.1), made("natural", 1, 0.2), *cells[-3:]], ("npo", "natural"))
    assert begun["ratio"][0]["ratio_per_seed"] == pytest.approx([0.25])


def test_page_and_picture(tmp_path, spec, prepared):
    cells = [
        run_cell(spec, "demo", Cell("grad_diff", method, "wanda", "2:4", "prune-unlearn", 0), prepared[0])
        for method in ("none", "importance", "unmasked-same-mask")
    ]
    head = {
        "size": "x",
        "command": "sau benchmark",
        "cell_commits": ["c" * 40],
        "hardware": "h",
        "budget": {"text": "b"},
    }
    shipped = spec.shipped
    informed = compare([cell | cell["informed"] for cell in cells], shipped)["ratio"]
    page = markdown(
        {**head, "cells": cells, "references": prepared[1], **compare(cells, shipped), "informed": informed}
    )
    assert "| wanda | 2:4 | prune-unlearn | importance |" in page
    assert "nan" not in page
    for path in frontier(cells, prepared[1], tmp_path / "picture"):
        assert 0 < path.stat().st_size < 300 * 1024
        assert str(tmp_path).encode() not in path.read_bytes()


def test_the_frontier_drops_what_is_beaten_on_both():
    assert _undominated([(0.1, 0.5), (0.2, 0.4), (0.3, 0.9), (0.1, 0.6)]) == [(0.1, 0.6), (0.3, 0.9)]
